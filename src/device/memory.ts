/**
 * A device's own memory, such as a framebuffer or VRAM. It costs only what has been written, and logs dirty pages
 * while the device migrates.
 *
 * Bytes are stored in chunks, which are allocated by the first write. Unwritten bytes read as 0. Only one thread uses
 * a memory, so the log needs no atomics.
 */
import { hex } from '../memory/address.ts';
import type { BarRegion } from './bar-region.ts';
import { DirtyPages, PAGES_PER_CHUNK } from './dirty-pages.ts';

/** Size of the largest device memory. */
export const DEVICE_MEMORY_BYTES_MAX: number = 16 * 2 ** 30;
/** Size of a chunk. A view never crosses the end of a chunk. */
export const MEMORY_CHUNK_BYTES = 65536;
/** Size of a page of the dirty log. */
export const DIRTY_PAGE_BYTES: number = MEMORY_CHUNK_BYTES / PAGES_PER_CHUNK;

const NO_BYTES = Buffer.alloc(MEMORY_CHUNK_BYTES);

/** Adjacent dirty pages. The last page of a memory may be cut short by its end. */
interface DirtyRun {
  readonly offset: number;
  readonly length: number;
  /** All bytes are 0, so only their count needs to be sent. */
  readonly zero: boolean;
}

/** Pages that are still to be sent, in bytes: those of the first pass, and those written since they were sent. */
interface DirtyCount {
  readonly initialBytes: number;
  readonly dirtyBytes: number;
}

/** Memory of a device, also usable as the region of a BAR. It migrates with the device. */
export class DeviceMemory implements BarRegion {
  /** For messages and the migration stream; unique within the device. */
  readonly name: string;
  readonly size: number;
  readonly #chunks = new Map<number, Buffer>();
  #log: DirtyPages | undefined;

  /** @throws RangeError for a size that is not an integer from 1 to DEVICE_MEMORY_BYTES_MAX */
  constructor(name: string, size: number) {
    if (typeof name !== 'string' || name === '') throw new RangeError('a memory without a name');
    if (!(Number.isInteger(size) && size > 0 && size <= DEVICE_MEMORY_BYTES_MAX))
      throw new RangeError(`memory '${name}' of ${size} bytes; accepted: 1 to ${DEVICE_MEMORY_BYTES_MAX}`);
    this.name = name;
    this.size = size;
  }

  /** Bytes that are allocated now. */
  get allocatedBytes(): number {
    return this.#chunks.size * Math.min(MEMORY_CHUNK_BYTES, this.size);
  }

  /** Performs a software read of 1, 2, 4 or 8 bytes. @throws RangeError */
  read(offset: number, size: number): bigint {
    const view = this.readable(offset, size) as Buffer;
    if (view.length === size) return load(view, size);
    const word = Buffer.alloc(size);
    this.readInto(offset, word);
    return load(word, size);
  }

  /** Performs a software write of 1, 2, 4 or 8 bytes. @throws RangeError */
  write(offset: number, size: number, value: bigint): void {
    const view = this.writable(offset, size) as Buffer;
    if (view.length === size) {
      put(view, size, value);
      return;
    }
    const word = Buffer.alloc(size);
    put(word, size, value);
    this.store(offset, word);
  }

  readBlock(offset: number, target: Uint8Array): void {
    this.readInto(offset, target);
  }

  writeBlock(offset: number, source: Uint8Array): void {
    this.store(offset, source);
  }

  /** Fills `target` with the bytes at `offset`. @throws RangeError */
  readInto(offset: number, target: Uint8Array): void {
    this.#check(offset, target.length);
    for (let at = 0; at < target.length; ) {
      const view = this.readable(offset + at, target.length - at);
      target.set(view, at);
      at += view.length;
    }
  }

  /** Stores bytes. @throws RangeError */
  store(offset: number, bytes: Uint8Array): void {
    this.#check(offset, bytes.length);
    for (let at = 0; at < bytes.length; ) {
      const view = this.writable(offset + at, bytes.length - at);
      view.set(bytes.subarray(at, at + view.length));
      at += view.length;
    }
  }

  /**
   * Returns a view of the bytes from `offset` on: `limit` bytes, or fewer at the end of a chunk. It must only be
   * read, and only until the next write. @throws RangeError
   */
  readable(offset: number, limit: number): Uint8Array {
    this.#check(offset, limit);
    const within = offset % MEMORY_CHUNK_BYTES;
    const chunk = this.#chunks.get((offset - within) / MEMORY_CHUNK_BYTES) ?? NO_BYTES;
    return chunk.subarray(within, Math.min(within + limit, MEMORY_CHUNK_BYTES));
  }

  /** Returns a view of the same kind that must be written at once. Its bytes count as dirty. @throws RangeError */
  writable(offset: number, limit: number): Uint8Array {
    this.#check(offset, limit);
    const within = offset % MEMORY_CHUNK_BYTES;
    const index = (offset - within) / MEMORY_CHUNK_BYTES;
    const end = Math.min(within + limit, MEMORY_CHUNK_BYTES);
    let chunk = this.#chunks.get(index);
    if (!chunk) {
      if (end === within) return NO_BYTES.subarray(0, 0);
      chunk = Buffer.alloc(Math.min(MEMORY_CHUNK_BYTES, this.size - index * MEMORY_CHUNK_BYTES));
      this.#chunks.set(index, chunk);
    }
    this.#log?.mark(index, within, end);
    return chunk.subarray(within, end);
  }

  /**
   * Fills with a 32-bit value, little-endian. Frees whole chunks that become 0.
   * @throws RangeError, also for an offset or length that is not a multiple of 4
   */
  fill(offset: number, length: number, value32: number): void {
    this.#check(offset, length);
    if (offset % 4 !== 0 || length % 4 !== 0)
      throw new RangeError(
        `memory '${this.name}': fill at ${hex(offset)} +${length}; accepted: multiples of 4`,
      );
    if (value32 >>> 0 === 0) this.clear(offset, length);
    else this.#eachPiece(offset, length, (at, size) => fillWords(this.writable(at, size), value32));
  }

  /** Sets bytes to 0, by default all of them. Frees whole chunks. @throws RangeError */
  clear(offset = 0, length: number = this.size - offset): void {
    this.#check(offset, length);
    this.#eachPiece(offset, length, (at, size) => {
      const index = Math.floor(at / MEMORY_CHUNK_BYTES);
      const chunk = this.#chunks.get(index);
      if (!chunk) return;
      const within = at % MEMORY_CHUNK_BYTES;
      this.#log?.mark(index, within, within + size);
      if (size === chunk.length) this.#chunks.delete(index);
      else chunk.fill(0, within, within + size);
    });
  }

  /** Moves bytes here from a memory, which may be this one, like copyWithin. @throws RangeError for either range */
  move(offset: number, source: DeviceMemory, sourceOffset: number, length: number): void {
    this.#check(offset, length);
    source.#check(sourceOffset, length);
    const backward = source === this && offset > sourceOffset && offset < sourceOffset + length;
    for (let done = 0; done < length; ) {
      const size = pieceSize(offset, sourceOffset, length, done, backward);
      const at = backward ? length - done - size : done;
      this.#movePiece(offset + at, source, sourceOffset + at, size);
      done += size;
    }
  }

  /** Starts a log of dirty pages, which contains every page that may not be 0 once. */
  startTracking(): void {
    this.#log = new DirtyPages(this.#chunks.keys(), Math.ceil(this.size / DIRTY_PAGE_BYTES));
  }

  stopTracking(): void {
    this.#log = undefined;
  }

  get tracking(): boolean {
    return this.#log !== undefined;
  }

  /**
   * Size of the pages that are still to be sent; 0 without a log. A page that is written after it was sent counts
   * again.
   */
  get dirty(): DirtyCount {
    const { initialPages = 0, dirtyPages = 0 } = this.#log ?? {};
    return { initialBytes: initialPages * DIRTY_PAGE_BYTES, dirtyBytes: dirtyPages * DIRTY_PAGE_BYTES };
  }

  /**
   * Takes runs of dirty pages out of the log: at most `maxBytes`, but at least one page if there is one. Pages of the
   * first pass come first. The caller must read them before the memory is written again.
   */
  takeDirty(maxBytes: number): DirtyRun[] {
    const runs: DirtyRun[] = [];
    let open: DirtyRun | undefined;
    for (let left = Math.max(1, Math.floor(maxBytes / DIRTY_PAGE_BYTES)); left > 0; left--) {
      const page = this.#log?.take();
      if (page === undefined) break;
      const offset = page * DIRTY_PAGE_BYTES;
      const length = Math.min(DIRTY_PAGE_BYTES, this.size - offset);
      const zero = this.#isZero(offset, length);
      if (open && open.zero === zero && open.offset + open.length === offset) {
        open = { ...open, length: open.length + length };
        runs[runs.length - 1] = open;
      } else {
        open = { offset, length, zero };
        runs.push(open);
      }
    }
    return runs;
  }

  #isZero(offset: number, length: number): boolean {
    const view = this.readable(offset, length);
    return NO_BYTES.compare(view, 0, length, 0, length) === 0;
  }

  #movePiece(at: number, source: DeviceMemory, from: number, size: number): void {
    const isThere = source.#chunks.has(Math.floor(from / MEMORY_CHUNK_BYTES));
    if (!isThere) this.clear(at, size);
    else this.writable(at, size).set(source.readable(from, size));
  }

  #eachPiece(offset: number, length: number, work: (offset: number, size: number) => void): void {
    for (let at = offset; at < offset + length; ) {
      const size = Math.min(MEMORY_CHUNK_BYTES - (at % MEMORY_CHUNK_BYTES), offset + length - at);
      work(at, size);
      at += size;
    }
  }

  #check(offset: number, length: number): void {
    if (Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= this.size) return;
    throw new RangeError(
      `memory '${this.name}': ${length} bytes at ${offset}; accepted: within 0 to ${hex(this.size)}`,
    );
  }
}

/** Returns the size of the next piece of a move that lies within one chunk on both sides. */
function pieceSize(to: number, from: number, length: number, done: number, backward: boolean): number {
  const left = length - done;
  const room = (start: number): number => {
    if (!backward) return MEMORY_CHUNK_BYTES - ((start + done) % MEMORY_CHUNK_BYTES);
    return (start + left) % MEMORY_CHUNK_BYTES || MEMORY_CHUNK_BYTES;
  };
  return Math.min(left, room(to), room(from));
}

function load(view: Buffer, size: number): bigint {
  return size === 8 ? view.readBigUInt64LE() : BigInt(view.readUIntLE(0, size));
}

function put(view: Buffer, size: number, value: bigint): void {
  if (size === 8) view.writeBigUInt64LE(BigInt.asUintN(64, value));
  else view.writeUIntLE(Number(BigInt.asUintN(8 * size, value)), 0, size);
}

/** The offset and length of `view` are multiples of 4. */
function fillWords(view: Uint8Array, value32: number): void {
  const byte = value32 & 0xff;
  if (value32 >>> 0 === byte * 0x0101_0101) view.fill(byte);
  else new Int32Array(view.buffer, view.byteOffset, view.length / 4).fill(value32);
}
