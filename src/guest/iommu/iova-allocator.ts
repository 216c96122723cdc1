/**
 * Addresses for a domain: page ranges above every GPA the guest has, freed ranges handed out again first.
 *
 * Quick reuse is on purpose: an IOVA that soon means another page is what a stale translation cannot hide behind.
 */
import { hex, type Iova, PAGE_SIZE } from '../../memory/address.ts';

/** Thrown when the range has no room left. */
class IovaExhausted extends Error {
  constructor(pages: number, base: number, end: number) {
    super(`no room for ${pages} pages of IOVA in ${hex(base)}..${hex(end - 1)}`);
    this.name = 'IovaExhausted';
  }
}

/** What an allocator has handed out and got back. */
export interface IovaAllocatorState {
  readonly next: number;
  /** Freed addresses by number of pages; the last is handed out first. */
  readonly free: readonly (readonly [pages: number, iovas: readonly number[]])[];
}

export class IovaAllocator {
  readonly #base: number;
  readonly #end: number;
  readonly #free = new Map<number, number[]>();
  #next: number;

  /** Hands out [base, base + size); both are multiples of 4 KiB. */
  constructor(base: number, size: number) {
    this.#base = base;
    this.#next = base;
    this.#end = base + size;
  }

  /** An allocator of the same range that goes on where another was. */
  static restore(base: number, size: number, { next, free }: IovaAllocatorState): IovaAllocator {
    const allocator = new IovaAllocator(base, size);
    allocator.#next = next;
    for (const [pages, iovas] of free) allocator.#free.set(pages, [...iovas]);
    return allocator;
  }

  save(): IovaAllocatorState {
    return { next: this.#next, free: [...this.#free].map(([pages, iovas]) => [pages, [...iovas]]) };
  }

  /** First address of `pages` contiguous free pages. @throws IovaExhausted */
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
