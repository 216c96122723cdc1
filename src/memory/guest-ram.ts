/**
 * RAM of a VM: guest physical addresses below and above the MMIO hole, backed by shuffled host frames.
 */

import type { Prng } from '#host';
import * as mem from '#mem';
import type { Gpa, Hpa } from './address.ts';
import * as address from './address.ts';
import * as hostMemory from './host-memory.ts';
import { HostMemory, type HostMemoryHandle } from './host-memory.ts';
import { RamLog, type RamLogHandle } from './ram-log.ts';

// Local, because every access divides by them. V8 multiplies by the inverse of local constants only.
const { FOUR_GIB, hex, PAGE_SIZE } = address;
const { FRAME_SIZE } = hostMemory;
const { rd, wr, ld, st, or, wake, waitEqAsync, copyIn, copyOut, equals } = mem;

/** Highest end of guest RAM below 4 GiB. The space from here to 4 GiB is for MMIO, as on QEMU's q35. */
export const MMIO_HOLE_START = 2 ** 31;

/** A contiguous range of guest RAM. */
export interface RamRegion {
  readonly gpa: Gpa;
  readonly size: number;
}

/** A contiguous range of host memory behind a range of guest RAM. */
export interface HostExtent {
  readonly hpa: Hpa;
  readonly size: number;
}

/** Handle with which another thread opens the same RAM. */
export interface GuestRamHandle {
  readonly memory: HostMemoryHandle;
  readonly below4g: number;
  readonly above4g: number;
  /** Number of the host frame, counted from the slab's start, behind each 2 MiB of RAM in GPA order. */
  readonly frames: Int32Array;
}

/** Thrown when an access touches a GPA that is not RAM. */
export class GuestAddressError extends RangeError {
  readonly gpa: number;
  constructor(gpa: number, length: number, regions: readonly RamRegion[]) {
    const ranges = regions.map((r) => `${hex(r.gpa)}..${hex(r.gpa + r.size - 1)}`).join(', ');
    super(`guest address ${hex(Math.max(0, gpa))} +${length} is not guest RAM (${ranges})`);
    this.name = 'GuestAddressError';
    this.gpa = gpa;
  }
}

/**
 * Guest RAM by GPA, as the guest's CPU and the vIOMMU's table walker see it.
 *
 * Every method that writes marks the pages in the attached log, if any, after it has written their bytes (see
 * ram-log.ts). Writes directly to {@link host} need a log of their own, as device writes have.
 */
export class GuestRam {
  readonly handle: GuestRamHandle;
  readonly regions: readonly RamRegion[];
  readonly host: HostMemory;
  readonly #words: mem.SharedWords;
  readonly #below4g: number;
  readonly #end: number;
  readonly #frames: Int32Array;
  /** Index of the 2 MiB of RAM behind each host frame. Built on first use. */
  #sections: Int32Array | undefined;
  #log: RamLog | undefined;

  constructor(handle: GuestRamHandle) {
    this.handle = handle;
    this.host = new HostMemory(handle.memory);
    this.#words = this.host.words;
    this.#below4g = handle.below4g;
    this.#end = FOUR_GIB + handle.above4g;
    this.#frames = handle.frames;
    const regions: RamRegion[] = [{ gpa: 0 as Gpa, size: handle.below4g }];
    if (handle.above4g > 0) regions.push({ gpa: FOUR_GIB as Gpa, size: handle.above4g });
    this.regions = regions;
  }

  /**
   * Allocates RAM of `below4g` + `above4g` bytes on a new slab at `base`, with its frames shuffled by `prng`. Both
   * sizes are multiples of 2 MiB; `below4g` is at most 2 GiB.
   * @throws RangeError
   */
  static allocate(base: Hpa, below4g: number, above4g: number, prng: Prng): GuestRam {
    return GuestRam.on((size) => HostMemory.allocate(base, size), below4g, above4g, prng);
  }

  /**
   * Does as {@link allocate} on the slab that `take` returns for a size in bytes.
   * @throws RangeError, and the errors of `take`
   */
  static on(take: (size: number) => HostMemory, below4g: number, above4g: number, prng: Prng): GuestRam {
    for (const size of [below4g, above4g])
      if (!Number.isSafeInteger(size) || size < 0 || size % FRAME_SIZE !== 0)
        throw new RangeError(`guest RAM size ${size} is not a multiple of 2 MiB`);
    if (below4g < FRAME_SIZE || below4g > MMIO_HOLE_START)
      throw new RangeError(`guest RAM below 4 GiB is ${below4g} bytes; accepted: 2 MiB to 2 GiB`);
    const memory = take(below4g + above4g);
    const frames = prng.shuffle(Int32Array.from({ length: (below4g + above4g) / FRAME_SIZE }, (_, i) => i));
    return new GuestRam({ memory: memory.handle, below4g, above4g, frames });
  }

  get size(): number {
    return this.#below4g + this.handle.above4g;
  }

  /** Count of 4 KiB pages. */
  get pages(): number {
    return this.size / PAGE_SIZE;
  }

  /**
   * Marks this thread's writes from now on, in the log of `handle` or, without one, in a new log. Every thread that
   * writes must attach before the first full copy begins. Returns the log's handle for the other threads.
   * @throws RangeError for a log of a different RAM size
   */
  startLog(handle?: RamLogHandle): RamLogHandle {
    if (handle && handle.byteLength !== RamLog.bytesFor(this.size))
      throw new RangeError(
        `a log of ${handle.byteLength} bytes for RAM of ${this.size}; accepted: ${RamLog.bytesFor(this.size)}`,
      );
    this.#log = handle ? new RamLog(handle) : RamLog.allocate(this.size);
    return this.#log.handle;
  }

  /** Stops marking this thread's writes. */
  stopLog(): void {
    this.#log = undefined;
  }

  /** This thread's view of the attached log. */
  get log(): RamLog | undefined {
    return this.#log;
  }

  /** Returns the GPA of the page with index `page` in RAM order, as the log counts. @throws RangeError */
  gpaOfPage(page: number): Gpa {
    if (!(Number.isInteger(page) && page >= 0 && page < this.pages))
      throw new RangeError(`page ${page} of guest RAM; accepted: 0 to ${this.pages - 1}`);
    const linear = page * PAGE_SIZE;
    return (linear < this.#below4g ? linear : linear - this.#below4g + FOUR_GIB) as Gpa;
  }

  /** Returns the index of the page at `gpa` in RAM order. @throws GuestAddressError */
  pageIndex(gpa: number): number {
    this.#check(gpa, 1);
    return Math.floor(this.#linear(gpa) / PAGE_SIZE);
  }

  /** Returns the GPA of the page at a host address, as the inverse of {@link hpaOf}; undefined outside this RAM. */
  pageOf(hpa: number): Gpa | undefined {
    const offset = hpa - this.host.base;
    if (!(offset >= 0 && offset < this.size)) return undefined;
    this.#sections ??= inverse(this.#frames);
    const frame = Math.floor(offset / FRAME_SIZE);
    const linear = (this.#sections[frame] as number) * FRAME_SIZE + (offset - frame * FRAME_SIZE);
    return this.gpaOfPage(Math.floor(linear / PAGE_SIZE));
  }

  /** Returns true if all of [gpa, gpa + length) is RAM. A range across the MMIO hole is not. */
  contains(gpa: number, length: number): boolean {
    return (
      length >= 0 &&
      ((gpa >= 0 && gpa + length <= this.#below4g) || (gpa >= FOUR_GIB && gpa + length <= this.#end))
    );
  }

  /** Returns the host PFN of the page at `gpa`, or -1 if it is not RAM. */
  frameOf(gpa: number): number {
    const offset = this.#offset(gpa);
    return offset < 0 ? -1 : (this.host.base + offset) / PAGE_SIZE;
  }

  /**
   * Returns the index of the word at `gpa` for {@link wordAt}. The words up to the end of the page have the next
   * indices.
   * @throws GuestAddressError
   */
  wordIndex(gpa: number): number {
    return this.#wordIndex(gpa);
  }

  wordAt(index: number): number {
    return rd(this.#words, index, 'ram.word') >>> 0;
  }

  /** Returns the HPA behind `gpa`, or undefined if it is not RAM. */
  hpaOf(gpa: number): Hpa | undefined {
    const offset = this.#offset(gpa);
    return offset < 0 ? undefined : ((this.host.base + offset) as Hpa);
  }

  /**
   * Returns the host memory behind [gpa, gpa + size) in order, with contiguous frames merged.
   * @throws GuestAddressError if a part of it is not RAM
   */
  extents(gpa: Gpa, size: number): HostExtent[] {
    this.#check(gpa, size);
    const extents: HostExtent[] = [];
    for (let at: number = gpa, left = size; left > 0; ) {
      const length = Math.min(left, FRAME_SIZE - (at % FRAME_SIZE));
      const hpa = (this.host.base + this.#offset(at)) as Hpa;
      const last = extents.at(-1);
      if (last && last.hpa + last.size === hpa)
        extents[extents.length - 1] = { hpa: last.hpa, size: last.size + length };
      else extents.push({ hpa, size: length });
      at += length;
      left -= length;
    }
    return extents;
  }

  /** Reads a naturally aligned 32-bit word. @throws GuestAddressError */
  read32(gpa: number): number {
    return rd(this.#words, this.#wordIndex(gpa), 'ram.word') >>> 0;
  }

  /** @throws GuestAddressError */
  write32(gpa: number, value: number): void {
    wr(this.#words, this.#wordIndex(gpa), value, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, 4);
  }

  /** Writes consecutive words that lie in one page. @throws GuestAddressError */
  writeWords(gpa: number, values: readonly number[]): void {
    const index = this.#wordIndex(gpa);
    for (let i = 0; i < values.length; i++) wr(this.#words, index + i, values[i] as number, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, values.length * 4);
  }

  /** Sets bits atomically, so that no concurrent write of another thread is lost. @throws GuestAddressError */
  setBits32(gpa: number, bits: number): void {
    or(this.#words, this.#wordIndex(gpa), bits, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, 4);
  }

  /** Reads like {@link read32}, ordered: all writes before that of the value are visible. @throws GuestAddressError */
  load32(gpa: number): number {
    return ld(this.#words, this.#wordIndex(gpa), 'ram.word') >>> 0;
  }

  /** Stores a word and wakes its waiters: a wait descriptor's status, a fence. @throws GuestAddressError */
  publish32(gpa: number, value: number): void {
    const index = this.#wordIndex(gpa);
    st(this.#words, index, value, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, 4);
    wake(this.#words, index, 'ram.wait');
  }

  /** Returns undefined if the word already differs from `value`, otherwise a promise that is false on time-out. */
  waitWhile32(gpa: number, value: number, timeoutMs: number): Promise<boolean> | undefined {
    return waitEqAsync(this.#words, this.#wordIndex(gpa), value | 0, timeoutMs, 'ram.wait');
  }

  /** @throws GuestAddressError */
  read(gpa: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.readInto(bytes, 0, gpa, length);
    return bytes;
  }

  /** Reads into `target` from index `at` on. @throws GuestAddressError */
  readInto(target: Uint8Array, at: number, gpa: number, length: number): void {
    this.#check(gpa, length);
    if (isInFrame(gpa, length)) copyOut(target, at, this.host.bytes, this.#offset(gpa), length, 'ram.copy');
    else
      this.#pieces(gpa, length, (offset, from, piece) =>
        copyOut(target, at + from, this.host.bytes, offset, piece, 'ram.copy'),
      );
  }

  /** @throws GuestAddressError */
  write(gpa: number, bytes: Uint8Array): void {
    this.#check(gpa, bytes.length);
    if (isInFrame(gpa, bytes.length))
      copyIn(this.host.bytes, this.#offset(gpa), bytes, 0, bytes.length, 'ram.copy');
    else
      this.#pieces(gpa, bytes.length, (offset, at, piece) =>
        copyIn(this.host.bytes, offset, bytes, at, piece, 'ram.copy'),
      );
    if (this.#log !== undefined && bytes.length > 0) this.#mark(gpa, bytes.length);
  }

  /**
   * Copies the page at `gpa` to `target` from index `at` on. Unlike {@link readInto} it checks no length.
   * @param gpa a multiple of 4 KiB
   * @throws GuestAddressError
   */
  copyPageOut(gpa: number, target: Uint8Array, at = 0): void {
    copyOut(target, at, this.host.bytes, this.#pageOffset(gpa), PAGE_SIZE, 'ram.copy');
  }

  /** Returns true if the whole pages [gpa, gpa + bytes) hold only zeros. @throws GuestAddressError */
  isZero(gpa: number, bytes: number): boolean {
    this.#check(gpa, bytes);
    for (let at = gpa; at < gpa + bytes; at += PAGE_SIZE) {
      const offset = this.#pageOffset(at);
      // The first word identifies most pages in use, at a fraction of the cost of a comparison.
      if (rd(this.#words, offset / 4, 'ram.word') !== 0) return false;
      if (!equals(this.host.bytes, offset, ZERO_PAGE, 'ram.copy')) return false;
    }
    return true;
  }

  /** Returns true if RAM at `gpa` holds exactly `expected`. @throws GuestAddressError */
  equals(gpa: number, expected: Uint8Array): boolean {
    this.#check(gpa, expected.length);
    let same = true;
    this.#pieces(gpa, expected.length, (offset, at, piece) => {
      same &&= equals(this.host.bytes, offset, expected.subarray(at, at + piece), 'ram.copy');
    });
    return same;
  }

  #pieces(gpa: number, length: number, visit: (offset: number, at: number, piece: number) => void): void {
    for (let at = 0; at < length; ) {
      const piece = Math.min(length - at, FRAME_SIZE - ((gpa + at) % FRAME_SIZE));
      visit(this.#offset(gpa + at), at, piece);
      at += piece;
    }
  }

  #check(gpa: number, length: number): void {
    if (!this.contains(gpa, length)) throw new GuestAddressError(gpa, length, this.regions);
  }

  /** Marks the pages of a written range. A separate function keeps the writers small: mostly there is no log. */
  #mark(gpa: number, length: number): void {
    const first = Math.floor(this.#linear(gpa) / PAGE_SIZE);
    const last = Math.floor(this.#linear(gpa + length - 1) / PAGE_SIZE);
    this.#log?.mark(first, last - first + 1);
  }

  /** Returns the offset of `gpa`, which is RAM, in RAM order. */
  #linear(gpa: number): number {
    return gpa >= FOUR_GIB ? gpa - FOUR_GIB + this.#below4g : gpa;
  }

  /** Returns the byte offset of a page in the slab. @throws GuestAddressError for an address that is no page of RAM */
  #pageOffset(gpa: number): number {
    const offset = this.#offset(gpa);
    if (offset < 0 || gpa % PAGE_SIZE !== 0) throw new GuestAddressError(gpa, PAGE_SIZE, this.regions);
    return offset;
  }

  /** Returns the byte offset in the slab, or -1 if `gpa` is not RAM. */
  #offset(gpa: number): number {
    let linear = gpa;
    if (gpa >= FOUR_GIB) {
      if (gpa >= this.#end) return -1;
      linear = gpa - FOUR_GIB + this.#below4g;
    } else if (!(gpa >= 0 && gpa < this.#below4g)) return -1;
    const section = Math.floor(linear / FRAME_SIZE);
    return (this.#frames[section] as number) * FRAME_SIZE + (linear - section * FRAME_SIZE);
  }

  #wordIndex(gpa: number): number {
    const offset = this.#offset(gpa);
    if (offset < 0 || (gpa & 3) !== 0) throw new GuestAddressError(gpa, 4, this.regions);
    return offset / 4;
  }
}

const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

/** Returns the inverse of a permutation. */
function inverse(permutation: Int32Array): Int32Array {
  const inverted = new Int32Array(permutation.length);
  for (const [i, value] of permutation.entries()) inverted[value] = i;
  return inverted;
}

/** Returns true if the range lies in one host frame, where its bytes are contiguous. */
const isInFrame = (gpa: number, length: number): boolean =>
  length > 0 && (gpa % FRAME_SIZE) + length <= FRAME_SIZE;
