/**
 * Allocator of IOVA ranges. Freed ranges are allocated again first.
 *
 * Quick reuse is intended: an IOVA that is soon mapped to another page exposes a stale translation.
 */
import { hex, type Iova, PAGE_SIZE } from '../../memory/address.ts';

/** Thrown when the range is used up. */
class IovaExhausted extends Error {
  constructor(pages: number, base: number, end: number) {
    super(`no ${pages} free pages of IOVA in ${hex(base)}..${hex(end - 1)}`);
    this.name = 'IovaExhausted';
  }
}

/** State of an allocator. */
export interface IovaAllocatorState {
  /** First IOVA that was never allocated. */
  readonly next: number;
  /** Free ranges by count of pages; the last is allocated first. */
  readonly free: readonly (readonly [pages: number, iovas: readonly number[]])[];
}

/** Allocates ranges of pages in one range of IOVAs. */
export class IovaAllocator {
  readonly #base: number;
  readonly #end: number;
  readonly #free = new Map<number, number[]>();
  #next: number;

  /** Allocates in [base, base + size); both are multiples of 4 KiB. */
  constructor(base: number, size: number) {
    this.#base = base;
    this.#next = base;
    this.#end = base + size;
  }

  /** Restores an allocator of the same range. */
  static restore(base: number, size: number, { next, free }: IovaAllocatorState): IovaAllocator {
    const allocator = new IovaAllocator(base, size);
    allocator.#next = next;
    for (const [pages, iovas] of free) allocator.#free.set(pages, [...iovas]);
    return allocator;
  }

  save(): IovaAllocatorState {
    return { next: this.#next, free: [...this.#free].map(([pages, iovas]) => [pages, [...iovas]]) };
  }

  /** Returns the first IOVA of `pages` contiguous pages. @throws IovaExhausted */
  allocate(pages: number): Iova {
    const reused = this.#free.get(pages)?.pop();
    if (reused !== undefined) return reused as Iova;
    const iova = this.#next;
    if (iova + pages * PAGE_SIZE > this.#end) throw new IovaExhausted(pages, this.#base, this.#end);
    this.#next += pages * PAGE_SIZE;
    return iova as Iova;
  }

  free(iova: Iova, pages: number): void {
    const list = this.#free.get(pages);
    if (list) list.push(iova);
    else this.#free.set(pages, [iova]);
  }
}
