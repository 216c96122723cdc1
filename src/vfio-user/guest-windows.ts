/**
 * Files of guest RAM in the host memory of a device. All of them lie in one reservation of address space, so that the
 * emulated host physical address of a byte is the reservation's base plus its offset there.
 *
 * A file that cannot shrink is mapped once, whole, and used in place. An access behind the end of any other file would
 * end the process (SIGBUS), so such a file has a range of host addresses, but its bytes are read and written by calls.
 */
import { constants, fstatSync, readSync, statfsSync, writeSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { type Hpa, PAGE_2M, PAGE_SIZE } from '../memory/address.ts';
import { HostMemory, HPA_BASE } from '../memory/host-memory.ts';
import { VfioError } from '../vfio/errors.ts';
import {
  closeFile,
  duplicate,
  fileFlags,
  fileStatus,
  mapFile,
  release,
  reserve,
  SEAL_SHRINK,
  sealsOf,
  unmapFile,
} from './linux.ts';

/** Address space for all files of one device. */
const GUEST_MEMORY_BYTES: number = 64 * 2 ** 30;
/** Most files of one device at a time. */
export const GUEST_FILES_LIMIT = 64;

const { O_APPEND, O_RDONLY, O_WRONLY } = constants;
const O_ACCMODE: number = O_RDONLY | O_WRONLY | constants.O_RDWR;
/** File systems in user space may answer a read never. */
const FUSE_MAGIC = 0x65735546;

/** One file of guest RAM, and its place in the host memory. */
export interface GuestFile {
  /** Offset in the reservation, and the bytes of it. */
  readonly offset: number;
  readonly length: number;
  readonly canRead: boolean;
  readonly canWrite: boolean;
  /** A descriptor for calls, if the file is not mapped; -1 otherwise. */
  readonly fd: number;
  readonly key: string;
  /** Count of live DMA maps. */
  maps: number;
  /** Number of its last use. */
  used: number;
}

/** The host memory of a served device. */
export class GuestWindows extends HostMemory {
  /** Accesses that found the file shorter than when it was mapped. They read ones and write nothing. */
  lostAccesses = 0;
  readonly #address: bigint;
  readonly #files = new Map<string, GuestFile>();
  /** Files that are accessed by calls. */
  #unmapped: GuestFile[] = [];
  #uses = 0;

  private constructor(address: bigint, buffer: ArrayBuffer) {
    // The class works on any buffer: only its own thread uses this one.
    super({ sab: buffer as unknown as SharedArrayBuffer, base: HPA_BASE });
    this.#address = address;
  }

  /** Reserves the address space. @throws SystemCallError */
  static reserve(): GuestWindows {
    const { address, buffer } = reserve(GUEST_MEMORY_BYTES);
    return new GuestWindows(address, buffer);
  }

  get fileCount(): number {
    return this.#files.size;
  }

  /**
   * Returns the file of a received descriptor, which stays the caller's.
   * @throws VfioError EINVAL for anything but a regular file, ENOSPC if there is no room
   */
  open(fd: number): GuestFile {
    const { isRegular, size, inode, major, minor } = fileStatus(fd);
    const access = fileFlags(fd);
    const key = `${major}:${minor}:${inode}:${access & O_ACCMODE}:${size}`;
    const known = this.#files.get(key);
    if (known) {
      known.used = ++this.#uses;
      return known;
    }
    if (!isRegular || (access & O_APPEND) !== 0)
      throw new VfioError('EINVAL', 'guest memory that is not a regular file open for random access');
    if (statfsSync(`/proc/self/fd/${fd}`).type === FUSE_MAGIC)
      throw new VfioError('EINVAL', 'guest memory in a file system of user space');
    if (size < PAGE_SIZE) throw new VfioError('EINVAL', `guest memory in a file of ${size} bytes`);
    return this.#add(fd, key, Math.floor(size / PAGE_SIZE) * PAGE_SIZE, access & O_ACCMODE);
  }

  /** Returns the host address of an offset in a file. */
  addressOf(file: GuestFile, offset: number): Hpa {
    return (this.base + file.offset + offset) as Hpa;
  }

  /** Returns the file at a host address. */
  fileAt(hpa: number): GuestFile | undefined {
    const offset = hpa - this.base;
    for (const file of this.#files.values())
      if (offset >= file.offset && offset < file.offset + file.length) return file;
    return undefined;
  }

  /** Removes every file. No DMA map may be left. */
  clear(): void {
    for (const file of this.#files.values()) this.#remove(file);
  }

  /** Gives the address space back, after which nothing may use this memory. */
  free(): void {
    this.clear();
    release(this.#address, GUEST_MEMORY_BYTES);
  }

  override copy(target: Hpa, source: Hpa, length: number): void {
    if (this.#unmapped.length === 0) super.copy(target, source, length);
    else {
      const bytes = new Uint8Array(length);
      this.read(source, bytes);
      this.write(target, bytes);
    }
  }

  override read(source: Hpa, target: Uint8Array, targetOffset = 0, length = target.length): void {
    const file = this.#unmappedAt(source);
    if (!file) super.read(source, target, targetOffset, length);
    else
      this.#readFile(
        file,
        source - this.base - file.offset,
        target.subarray(targetOffset, targetOffset + length),
      );
  }

  override write(target: Hpa, source: Uint8Array, sourceOffset = 0, length = source.length): void {
    const file = this.#unmappedAt(target);
    if (!file) super.write(target, source, sourceOffset, length);
    else
      this.#writeFile(
        file,
        target - this.base - file.offset,
        source.subarray(sourceOffset, sourceOffset + length),
      );
  }

  override fill32(target: Hpa, length: number, value: number): void {
    if (!this.#unmappedAt(target)) super.fill32(target, length, value);
    else {
      const words = new Uint32Array(length / 4).fill(value >>> 0);
      this.write(target, new Uint8Array(words.buffer));
    }
  }

  override load32(source: Hpa): number {
    if (!this.#unmappedAt(source)) return super.load32(source);
    const bytes = Buffer.alloc(4);
    this.read(source, bytes);
    return bytes.readUInt32LE();
  }

  override store32(target: Hpa, value: number): void {
    if (!this.#unmappedAt(target)) super.store32(target, value);
    else this.write(target, new Uint8Array(Uint32Array.of(value).buffer));
  }

  override crc32(source: Hpa, length: number, seed: number): number {
    if (!this.#unmappedAt(source)) return super.crc32(source, length, seed);
    const bytes = new Uint8Array(length);
    this.read(source, bytes);
    return crc32(bytes, seed);
  }

  #unmappedAt(hpa: number): GuestFile | undefined {
    if (this.#unmapped.length === 0) return undefined;
    const offset = hpa - this.base;
    return this.#unmapped.find((file) => offset >= file.offset && offset < file.offset + file.length);
  }

  #add(fd: number, key: string, length: number, mode: number): GuestFile {
    const offset = this.#placeFor(length);
    const address = this.#address + BigInt(offset);
    const inPlace = (sealsOf(fd) & SEAL_SHRINK) !== 0 && mapFile(address, length, fd);
    const file: GuestFile = {
      offset,
      length,
      canRead: mode !== O_WRONLY,
      canWrite: mode !== O_RDONLY,
      fd: inPlace ? -1 : duplicate(fd),
      key,
      maps: 0,
      used: ++this.#uses,
    };
    this.#files.set(key, file);
    if (!inPlace) this.#unmapped.push(file);
    return file;
  }

  /** Returns the offset of free address space. Files without maps make room, the longest unused first. */
  #placeFor(length: number): number {
    for (;;) {
      const place = this.#files.size < GUEST_FILES_LIMIT ? this.#gap(length) : -1;
      if (place >= 0) return place;
      const idle = [...this.#files.values()].filter(({ maps }) => maps === 0);
      const oldest = idle.sort((a, b) => a.used - b.used)[0];
      if (!oldest)
        throw new VfioError(
          'ENOSPC',
          `${this.#files.size} files of guest memory, and one of ${length} bytes; ` +
            `accepted: ${GUEST_FILES_LIMIT} files of ${GUEST_MEMORY_BYTES} bytes`,
        );
      this.#remove(oldest);
    }
  }

  /** Returns the lowest free offset, aligned to 2 MiB, or -1. */
  #gap(length: number): number {
    const placed = [...this.#files.values()].sort((a, b) => a.offset - b.offset);
    let at = 0;
    for (const file of placed) {
      if (file.offset - at >= length) break;
      at = Math.ceil((file.offset + file.length) / PAGE_2M) * PAGE_2M;
    }
    return at + length <= GUEST_MEMORY_BYTES ? at : -1;
  }

  #remove(file: GuestFile): void {
    this.#files.delete(file.key);
    if (file.fd >= 0) {
      closeFile(file.fd);
      this.#unmapped = this.#unmapped.filter((other) => other !== file);
    } else unmapFile(this.#address + BigInt(file.offset), file.length);
  }

  #readFile({ fd }: GuestFile, offset: number, target: Uint8Array): void {
    let done = 0;
    try {
      while (done < target.length) {
        const count = readSync(fd, target, done, target.length - done, offset + done);
        if (count === 0) break;
        done += count;
      }
    } catch {
      // Counted below, like the end of the file.
    }
    if (done === target.length) return;
    target.fill(0xff, done);
    this.lostAccesses++;
  }

  #writeFile({ fd }: GuestFile, offset: number, source: Uint8Array): void {
    try {
      // A write behind the end would make the file longer.
      if (fstatSync(fd).size >= offset + source.length) {
        for (let done = 0; done < source.length; )
          done += writeSync(fd, source, done, source.length - done, offset + done);
        return;
      }
    } catch {
      // Counted below, like the end of the file.
    }
    this.lostAccesses++;
  }
}
