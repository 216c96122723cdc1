/**
 * The pages of a device memory that are still to be sent: a mask of 16 pages per chunk, in two passes. A page of the
 * first pass is sent once. A page that is written after it was sent is in the second pass until it is sent again.
 */

/** Pages of one mask. */
export const PAGES_PER_CHUNK = 16;
const PAGE_SHIFT = 12;

/** Returns the mask of the pages before `page`. */
const upTo = (page: number): number => 2 ** page - 1;

/**
 * Chunk → mask of its pages, taken in the order in which the chunks were added. A chunk is taken to its end before
 * the next one, so a chunk that is added again always comes after the iterator.
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

  /** Takes the lowest page of the oldest chunk. */
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
    // An exhausted iterator stays exhausted.
    this.#next = this.#masks.keys();
    return this.#next.next().value as number;
  }
}

export class DirtyPages {
  readonly #initial = new PageSet();
  readonly #dirty = new PageSet();

  /** Adds all pages of `chunks` to the first pass, lowest first. The memory has `pages` pages. */
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

  /** Marks the pages of bytes `start` to `end` (exclusive) of a chunk as written. */
  mark(chunk: number, start: number, end: number): void {
    if (end <= start) return;
    const mask = upTo(((end - 1) >> PAGE_SHIFT) + 1) & ~upTo(start >> PAGE_SHIFT);
    // A page that the first pass has not sent yet will be sent with its new content.
    this.#dirty.add(chunk, mask & ~this.#initial.mask(chunk));
  }

  /** Takes a page to send. Returns its number. */
  take(): number | undefined {
    return this.#initial.take() ?? this.#dirty.take();
  }
}

function bits(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count++;
  return count;
}
