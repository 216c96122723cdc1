/**
 * Which pages of a device's memory are still to be sent: a mask of 16 pages per chunk, and two passes over them. A page
 * of the first pass is sent once; one that is written afterwards is in the second until it is taken again.
 */

/** Pages that one mask holds. */
export const PAGES_PER_CHUNK = 16;
const PAGE_SHIFT = 12;

/** A mask of the pages before `page`. */
const upTo = (page: number): number => 2 ** page - 1;

/**
 * Chunk → its pages, taken in the order in which the chunks came. A chunk is taken to its end before the next, so behind
 * the iterator there is never one: what comes anew comes after it.
 */
class PageSet {
  readonly #masks = new Map<number, number>();
  #next = this.#masks.keys();
  #current = -1;
  count = 0;

  mask(chunk: number): number {
    return this.#masks.get(chunk) ?? 0;
  }

  add(chunk: number, mask: number): void {
    const before = this.mask(chunk);
    const after = before | mask;
    if (after === before) return;
    this.#masks.set(chunk, after);
    this.count += bits(after ^ before);
  }

  /** The lowest page of the oldest chunk. */
  take(): number | undefined {
    if (this.count === 0) return undefined;
    if (this.#current < 0) this.#current = this.#oldest();
    const chunk = this.#current;
    const mask = this.mask(chunk);
    const rest = mask & (mask - 1);
    if (rest !== 0) this.#masks.set(chunk, rest);
    else {
      this.#masks.delete(chunk);
      this.#current = -1;
    }
    this.count--;
    return chunk * PAGES_PER_CHUNK + 31 - Math.clz32(mask & -mask);
  }

  #oldest(): number {
    const next = this.#next.next();
    if (!next.done) return next.value;
    // An iterator that has come to its end stays there.
    this.#next = this.#masks.keys();
    return this.#next.next().value as number;
  }
}

export class DirtyPages {
  readonly #initial = new PageSet();
  readonly #dirty = new PageSet();

  /** `chunks` of a memory of `pages` pages are to be sent once, from the lowest on. */
  constructor(chunks: Iterable<number>, pages: number) {
    for (const chunk of [...chunks].sort((a, b) => a - b))
      this.#initial.add(chunk, upTo(Math.min(PAGES_PER_CHUNK, pages - chunk * PAGES_PER_CHUNK)));
  }

  get initialPages(): number {
    return this.#initial.count;
  }

  get dirtyPages(): number {
    return this.#dirty.count;
  }

  /** Bytes from `start` to before `end` of a chunk have been written. */
  mark(chunk: number, start: number, end: number): void {
    if (end <= start) return;
    const mask = upTo(((end - 1) >> PAGE_SHIFT) + 1) & ~upTo(start >> PAGE_SHIFT);
    // What the first pass has yet to send it will send as it is then.
    this.#dirty.add(chunk, mask & ~this.#initial.mask(chunk));
  }

  /** Takes the number of a page that is to be sent. */
  take(): number | undefined {
    return this.#initial.take() ?? this.#dirty.take();
  }
}

function bits(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count++;
  return count;
}
