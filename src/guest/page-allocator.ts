/**
 * Allocator of zeroed pages in one range of guest RAM, for the guest's tables and buffers.
 */
import { alignDown, hex, PAGE_2M, PAGE_SIZE } from '../memory/address.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import { decodeNumbers, encodeNumbers, type NumberRun } from './run-length.ts';

/** Thrown when the range has no free page or block left. */
export class PageAllocatorExhausted extends Error {
  constructor(what: string, base: number, size: number, live: number) {
    super(`no free ${what} in guest pages ${hex(base)} +${size} (${live} allocated)`);
    this.name = 'PageAllocatorExhausted';
  }
}

/** Thrown when a page is freed that is not allocated. */
export class PageNotAllocated extends Error {
  constructor(gpa: number) {
    super(`guest page ${hex(gpa)} is not allocated`);
    this.name = 'PageNotAllocated';
  }
}

/** State of an allocator; all addresses are GPAs. */
export interface PageAllocatorState {
  /** Bounds of the part that was never allocated. */
  readonly low: number;
  readonly high: number;
  /** Free pages and blocks; the last is allocated first. */
  readonly free: readonly number[];
  readonly freeBlocks: readonly number[];
  /** Allocated 4 KiB pages as runs, and allocated 2 MiB blocks. */
  readonly livePages: readonly NumberRun[];
  readonly liveBlocks: readonly number[];
}

/**
 * Allocates 4 KiB pages from the start of the range and 2 MiB blocks from its end. Freed memory is allocated again
 * first (LIFO), so that a device which still uses it is detected.
 */
export class PageAllocator {
  readonly #ram: GuestRam;
  readonly #base: number;
  readonly #size: number;
  readonly #free: number[] = [];
  readonly #freeBlocks: number[] = [];
  readonly #live = new Map<number, number>();
  #low: number;
  #high: number;

  /**
   * @param base GPA, a multiple of 4 KiB
   * @param size bytes, a multiple of 4 KiB; the whole range is guest RAM
   * @throws RangeError
   */
  constructor(ram: GuestRam, base: number, size: number) {
    if (base % PAGE_SIZE !== 0 || size % PAGE_SIZE !== 0 || size <= 0 || !ram.contains(base, size))
      throw new RangeError(`${hex(base)} +${size} is not a page-aligned range of guest RAM`);
    this.#ram = ram;
    this.#base = base;
    this.#size = size;
    this.#low = base;
    this.#high = base + size;
  }

  /** Restores an allocator of the same range; RAM is not touched. @throws RangeError */
  static restore(ram: GuestRam, base: number, size: number, saved: PageAllocatorState): PageAllocator {
    const allocator = new PageAllocator(ram, base, size);
    allocator.#low = saved.low;
    allocator.#high = saved.high;
    // One by one: a spread of many thousands would overflow the stack.
    for (const gpa of saved.free) allocator.#free.push(gpa);
    for (const gpa of saved.freeBlocks) allocator.#freeBlocks.push(gpa);
    for (const gpa of decodeNumbers(saved.livePages, PAGE_SIZE)) allocator.#live.set(gpa, PAGE_SIZE);
    for (const gpa of saved.liveBlocks) allocator.#live.set(gpa, PAGE_2M);
    return allocator;
  }

  save(): PageAllocatorState {
    const live = (wanted: number) =>
      [...this.#live].filter(([, size]) => size === wanted).map(([gpa]) => gpa);
    return {
      low: this.#low,
      high: this.#high,
      free: [...this.#free],
      freeBlocks: [...this.#freeBlocks],
      livePages: encodeNumbers(live(PAGE_SIZE), PAGE_SIZE),
      liveBlocks: live(PAGE_2M),
    };
  }

  /** Count of allocated pages and blocks. */
  get live(): number {
    return this.#live.size;
  }

  /** Returns the GPA of a zeroed 4 KiB page. @throws PageAllocatorExhausted */
  allocate(): number {
    const reused = this.#free.pop();
    if (reused === undefined && this.#low + PAGE_SIZE > this.#high) throw this.#exhausted('4 KiB page');
    const gpa = reused ?? this.#low;
    if (reused === undefined) this.#low += PAGE_SIZE;
    return this.#claim(gpa, PAGE_SIZE);
  }

  /**
   * Returns the GPA of `count` contiguous zeroed pages. They are never pages that were freed; each is freed alone.
   * @throws PageAllocatorExhausted
   */
  allocateRun(count: number): number {
    const gpa = this.#low;
    if (gpa + count * PAGE_SIZE > this.#high) throw this.#exhausted(`run of ${count} pages`);
    this.#low += count * PAGE_SIZE;
    for (let i = 0; i < count; i++) this.#claim(gpa + i * PAGE_SIZE, PAGE_SIZE);
    return gpa;
  }

  /** Returns the GPA of a zeroed, aligned 2 MiB block. @throws PageAllocatorExhausted */
  allocateBlock(): number {
    const reused = this.#freeBlocks.pop();
    const lowered = alignDown(this.#high, PAGE_2M) - PAGE_2M;
    if (reused === undefined && lowered < this.#low) throw this.#exhausted('2 MiB block');
    const gpa = reused ?? lowered;
    if (reused === undefined) this.#high = gpa;
    return this.#claim(gpa, PAGE_2M);
  }

  /** Frees a page or block. @throws PageNotAllocated */
  free(gpa: number): void {
    const size = this.#live.get(gpa);
    if (size === undefined) throw new PageNotAllocated(gpa);
    this.#live.delete(gpa);
    (size === PAGE_2M ? this.#freeBlocks : this.#free).push(gpa);
  }

  #claim(gpa: number, size: number): number {
    this.#ram.write(gpa, new Uint8Array(size));
    this.#live.set(gpa, size);
    return gpa;
  }

  #exhausted(what: string): PageAllocatorExhausted {
    return new PageAllocatorExhausted(what, this.#base, this.#size, this.#live.size);
  }
}
