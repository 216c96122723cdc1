/**
 * A VM's RAM: guest physical addresses backed by shuffled host frames, below and above the MMIO hole.
 */

import type { Prng } from '#host';
import * as mem from '#mem';
import type { Gpa, Hpa } from './address.ts';
import * as address from './address.ts';
import * as hostMemory from './host-memory.ts';
import { HostMemory, type HostMemoryHandle } from './host-memory.ts';
import { RamLog, type RamLogHandle } from './ram-log.ts';

// Local, because every access divides by them: V8 multiplies by the inverse of a local constant only.
const { FOUR_GIB, hex, PAGE_SIZE } = address;
const { FRAME_SIZE } = hostMemory;
const { rd, wr, ld, st, or, wake, waitEqAsync, copyIn, copyOut, equals } = mem;

/** Where guest RAM ends below 4 GiB at the latest; the space from here to 4 GiB is for MMIO (q35's choice). */
export const MMIO_HOLE_START = 2 ** 31;

/** One contiguous piece of guest RAM. */
export interface RamRegion {
  readonly gpa: Gpa;
  readonly size: number;
}

/** A contiguous piece of host memory behind a guest range. */
export interface HostExtent {
  readonly hpa: Hpa;
  readonly size: number;
}

/** What another thread needs to open the same RAM. */
export interface GuestRamHandle {
  readonly memory: HostMemoryHandle;
  readonly below4g: number;
  readonly above4g: number;
  /** Host frame number, from the slab's start, of each 2 MiB of RAM in GPA order. */
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
 * Guest RAM as the guest's CPU and the vIOMMU's table walker see it: by GPA.
 *
 * Every method that writes marks the pages in the log, if one is attached, after their bytes (see ram-log.ts). Who writes
 * to {@link host} directly must be logged elsewhere, as devices are.
 */
export class GuestRam {
  readonly handle: GuestRamHandle;
  readonly regions: readonly RamRegion[];
  readonly host: HostMemory;
  readonly #words: mem.SharedWords;
  readonly #below4g: number;
  readonly #end: number;
  readonly #frames: Int32Array;
  /** By host frame, the 2 MiB of RAM that it backs; made when it is first asked for. */
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
   * Allocates RAM of `below4g` + `above4g` bytes (multiples of 2 MiB, the first at most 2 GiB) on a new slab at
   * `base`, its frames shuffled by `prng`.
   * @throws RangeError
   */
  static allocate(base: Hpa, below4g: number, above4g: number, prng: Prng): GuestRam {
    for (const size of [below4g, above4g])
      if (!Number.isSafeInteger(size) || size < 0 || size % FRAME_SIZE !== 0)
        throw new RangeError(`guest RAM size ${size} is not a multiple of 2 MiB`);
    if (below4g < FRAME_SIZE || below4g > MMIO_HOLE_START)
      throw new RangeError(`guest RAM below 4 GiB is ${below4g} bytes; accepted: 2 MiB to 2 GiB`);
    const memory = HostMemory.allocate(base, below4g + above4g);
    const frames = prng.shuffle(Int32Array.from({ length: (below4g + above4g) / FRAME_SIZE }, (_, i) => i));
    return new GuestRam({ memory: memory.handle, below4g, above4g, frames });
  }

  get size(): number {
    return this.#below4g + this.handle.above4g;
  }

  /** Pages of 4 KiB. */
  get pages(): number {
    return this.size / PAGE_SIZE;
  }

  /**
   * From now on this thread's writes are marked in the log of `handle`, or in a new one if none is given. Every thread
   * that writes attaches before the first full copy begins. Returns the log's handle, for the other threads.
   * @throws RangeError for a log of another size of RAM
   */
  startLog(handle?: RamLogHandle): RamLogHandle {
    if (handle && handle.byteLength !== RamLog.bytesFor(this.size))
      throw new RangeError(
        `a log of ${handle.byteLength} bytes for RAM of ${this.size}; accepted: ${RamLog.bytesFor(this.size)}`,
      );
    this.#log = handle ? new RamLog(handle) : RamLog.allocate(this.size);
    return this.#log.handle;
  }

  /** This thread's writes are marked no longer. */
  stopLog(): void {
    this.#log = undefined;
  }

  /** This thread's view of the log that is attached. */
  get log(): RamLog | undefined {
    return this.#log;
  }

  /** GPA of a page by its number in RAM order, as the log counts. @throws RangeError */
  gpaOfPage(page: number): Gpa {
    if (!(Number.isInteger(page) && page >= 0 && page < this.pages))
      throw new RangeError(`page ${page} of guest RAM; accepted: 0 to ${this.pages - 1}`);
    const linear = page * PAGE_SIZE;
    return (linear < this.#below4g ? linear : linear - this.#below4g + FOUR_GIB) as Gpa;
  }

  /** Number of the page at `gpa` in RAM order. @throws GuestAddressError */
  pageIndex(gpa: number): number {
    this.#check(gpa, 1);
    return Math.floor(this.#linear(gpa) / PAGE_SIZE);
  }

  /** GPA of the page that a host address is in: what {@link hpaOf} gives, turned around. Undefined outside this RAM. */
  pageOf(hpa: number): Gpa | undefined {
    const offset = hpa - this.host.base;
    if (!(offset >= 0 && offset < this.size)) return undefined;
    this.#sections ??= inverse(this.#frames);
    const frame = Math.floor(offset / FRAME_SIZE);
    const linear = (this.#sections[frame] as number) * FRAME_SIZE + (offset - frame * FRAME_SIZE);
    return this.gpaOfPage(Math.floor(linear / PAGE_SIZE));
  }

  /** True if all of [gpa, gpa + length) is RAM (it may not span the MMIO hole). */
  contains(gpa: number, length: number): boolean {
    return (
      length >= 0 &&
      ((gpa >= 0 && gpa + length <= this.#below4g) || (gpa >= FOUR_GIB && gpa + length <= this.#end))
    );
  }

  /** Host PFN of the page at `gpa`, or -1 if it is not RAM. */
  frameOf(gpa: number): number {
    const offset = this.#offset(gpa);
    return offset < 0 ? -1 : (this.host.base + offset) / PAGE_SIZE;
  }

  /**
   * Index of the word at `gpa`, for {@link wordAt}: a page table's entries, up to the page's end, are behind it.
   * @throws GuestAddressError
   */
  wordIndex(gpa: number): number {
    return this.#wordIndex(gpa);
  }

  wordAt(index: number): number {
    return rd(this.#words, index, 'ram.word') >>> 0;
  }

  /** HPA behind `gpa`, or undefined if it is not RAM. */
  hpaOf(gpa: number): Hpa | undefined {
    const offset = this.#offset(gpa);
    return offset < 0 ? undefined : ((this.host.base + offset) as Hpa);
  }

  /**
   * The host memory behind [gpa, gpa + size), in order, contiguous frames merged.
   * @throws GuestAddressError if any of it is not RAM
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

  /** Low word of a naturally aligned value. @throws GuestAddressError */
  read32(gpa: number): number {
    return rd(this.#words, this.#wordIndex(gpa), 'ram.word') >>> 0;
  }

  /** @throws GuestAddressError */
  write32(gpa: number, value: number): void {
    wr(this.#words, this.#wordIndex(gpa), value, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, 4);
  }

  /** Sets bits in one step, so that nothing another thread writes at the same time is lost. @throws GuestAddressError */
  setBits32(gpa: number, bits: number): void {
    or(this.#words, this.#wordIndex(gpa), bits, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, 4);
  }

  /** As {@link read32}, ordered: what was written before the value it sees is visible. @throws GuestAddressError */
  load32(gpa: number): number {
    return ld(this.#words, this.#wordIndex(gpa), 'ram.word') >>> 0;
  }

  /** Stores the word and wakes who waits on it: a wait descriptor's status, a fence. @throws GuestAddressError */
  publish32(gpa: number, value: number): void {
    const index = this.#wordIndex(gpa);
    st(this.#words, index, value, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, 4);
    wake(this.#words, index, 'ram.wait');
  }

  /** Undefined if the word already differs from `value`; else a promise, false on time-out. */
  waitWhile32(gpa: number, value: number, timeoutMs: number): Promise<boolean> | undefined {
    return waitEqAsync(this.#words, this.#wordIndex(gpa), value | 0, timeoutMs, 'ram.wait');
  }

  /** @throws GuestAddressError */
  read(gpa: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.readInto(bytes, 0, gpa, length);
    return bytes;
  }

  /** {@link read} into `target` from index `at` on. @throws GuestAddressError */
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
   * Copies the page at `gpa` to `target` from index `at` on: {@link readInto} without its checks of length.
   * @param gpa a multiple of 4 KiB
   * @throws GuestAddressError
   */
  copyPageOut(gpa: number, target: Uint8Array, at = 0): void {
    copyOut(target, at, this.host.bytes, this.#pageOffset(gpa), PAGE_SIZE, 'ram.copy');
  }

  /** True if [gpa, gpa + bytes), whole pages, holds nothing but zeros. @throws GuestAddressError */
  isZero(gpa: number, bytes: number): boolean {
    this.#check(gpa, bytes);
    for (let at = gpa; at < gpa + bytes; at += PAGE_SIZE) {
      const offset = this.#pageOffset(at);
      // The first word tells most pages that are in use, for a fraction of a comparison's call.
      if (rd(this.#words, offset / 4, 'ram.word') !== 0) return false;
      if (!equals(this.host.bytes, offset, ZERO_PAGE, 'ram.copy')) return false;
    }
    return true;
  }

  /** True if RAM at `gpa` holds exactly `expected`. @throws GuestAddressError */
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

  /** Marks the pages of a range that was just written. Out of the writers' way: most of the time there is no log. */
  #mark(gpa: number, length: number): void {
    const first = Math.floor(this.#linear(gpa) / PAGE_SIZE);
    const last = Math.floor(this.#linear(gpa + length - 1) / PAGE_SIZE);
    this.#log?.mark(first, last - first + 1);
  }

  /** Where `gpa` is in RAM order; it is RAM. */
  #linear(gpa: number): number {
    return gpa >= FOUR_GIB ? gpa - FOUR_GIB + this.#below4g : gpa;
  }

  /** Byte offset in the slab of a page. @throws GuestAddressError if it is none */
  #pageOffset(gpa: number): number {
    const offset = this.#offset(gpa);
    if (offset < 0 || gpa % PAGE_SIZE !== 0) throw new GuestAddressError(gpa, PAGE_SIZE, this.regions);
    return offset;
  }

  /** Byte offset in the slab, or -1 if `gpa` is not RAM. */
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

/** A permutation turned around. */
function inverse(permutation: Int32Array): Int32Array {
  const inverted = new Int32Array(permutation.length);
  for (const [i, value] of permutation.entries()) inverted[value] = i;
  return inverted;
}

/** True if the range lies in one host frame: its bytes are contiguous there. */
const isInFrame = (gpa: number, length: number): boolean =>
  length > 0 && (gpa % FRAME_SIZE) + length <= FRAME_SIZE;
