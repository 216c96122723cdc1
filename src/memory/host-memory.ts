/**
 * Host physical memory: a slab of frames in one SharedArrayBuffer. Its HPAs begin above every guest address.
 */
import * as mem from '#mem';
import { type Hpa, hex, PAGE_2M } from './address.ts';

const { copy, copyIn, copyOut, crc32, fillWords, ld, st } = mem;

/** Host frames are given to guests in units of this size, as on a host with huge pages. */
export const FRAME_SIZE = PAGE_2M;

/** First HPA: above every GPA and IOVA that guests use, so that a missing translation is out of range. */
export const HPA_BASE = 2 ** 40;

/** End of the HPAs: the pin table's frame word holds 30 bits of host PFN. */
export const HPA_LIMIT = 2 ** 42;

/** Thrown for an HPA outside the slab. It always means a bug in the emulator or in a model. */
export class HostAddressError extends RangeError {
  constructor(address: number, length: number, base: number, size: number) {
    super(
      `host address ${hex(Math.max(0, address))} +${length} lies outside this host memory ` +
        `(${hex(base)}..${hex(base + size - 1)})`,
    );
    this.name = 'HostAddressError';
  }
}

/** Handle with which another thread opens the same memory. */
export interface HostMemoryHandle {
  readonly sab: SharedArrayBuffer;
  readonly base: number;
}

/** Access to a slab of host memory by HPA. Threads share its bytes, but not this object. */
export class HostMemory {
  readonly base: number;
  readonly size: number;
  readonly bytes: mem.SharedBytes;
  readonly words: mem.SharedWords;
  readonly #sab: SharedArrayBuffer;

  constructor(handle: HostMemoryHandle) {
    this.#sab = handle.sab;
    this.base = handle.base;
    this.size = handle.sab.byteLength;
    this.bytes = mem.bytesOf(handle.sab);
    this.words = mem.wordsOf(handle.sab);
  }

  /** Allocates a zeroed slab. Pages cost nothing until they are touched. @throws RangeError */
  static allocate(base: Hpa, size: number): HostMemory {
    if (size % FRAME_SIZE !== 0 || size <= 0)
      throw new RangeError(`host memory size ${size} is not a positive multiple of 2 MiB`);
    if (base + size > HPA_LIMIT)
      throw new RangeError(`host memory ${hex(base)} +${size} ends above the HPA limit ${hex(HPA_LIMIT)}`);
    return new HostMemory({ sab: new SharedArrayBuffer(size), base });
  }

  get handle(): HostMemoryHandle {
    return { sab: this.#sab, base: this.base };
  }

  /**
   * Returns the byte offset of [address, address + length) in the slab.
   * @throws HostAddressError
   */
  offset(address: number, length: number): number {
    const offset = address - this.base;
    if (!(offset >= 0 && offset + length <= this.size))
      throw new HostAddressError(address, length, this.base, this.size);
    return offset;
  }

  /** @throws HostAddressError */
  copy(target: Hpa, source: Hpa, length: number): void {
    copy(
      this.bytes,
      this.offset(target, length),
      this.bytes,
      this.offset(source, length),
      length,
      'ram.copy',
    );
  }

  /** @throws HostAddressError */
  read(source: Hpa, target: Uint8Array, targetOffset = 0, length = target.length): void {
    copyOut(target, targetOffset, this.bytes, this.offset(source, length), length, 'ram.copy');
  }

  /** @throws HostAddressError */
  write(target: Hpa, source: Uint8Array, sourceOffset = 0, length = source.length): void {
    copyIn(this.bytes, this.offset(target, length), source, sourceOffset, length, 'ram.copy');
  }

  /** Fills a range with a 32-bit value. Address and length are multiples of 4. @throws HostAddressError */
  fill32(target: Hpa, length: number, value: number): void {
    fillWords(this.words, this.offset(target, length) / 4, length / 4, value, 'ram.fill');
  }

  /** Reads an aligned 32-bit word at once: all writes before that of the value are visible. @throws HostAddressError */
  load32(source: Hpa): number {
    return ld(this.words, this.offset(source, 4) / 4, 'ram.word') >>> 0;
  }

  /** Stores an aligned 32-bit word at once, after all writes before. @throws HostAddressError */
  store32(target: Hpa, value: number): void {
    st(this.words, this.offset(target, 4) / 4, value | 0, 'ram.word');
  }

  /** Returns the CRC-32 of a range, continued from `seed`. @throws HostAddressError */
  crc32(source: Hpa, length: number, seed: number): number {
    return crc32(this.bytes, this.offset(source, length), length, seed, 'ram.checksum');
  }
}
