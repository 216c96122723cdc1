/**
 * RAM log: the pages of guest RAM that threads other than device workers have written, one bit per 4 KiB page in RAM
 * order. A migration copies these pages again. Device writes have a log of their own (pin-table/page-log.ts).
 *
 * The writing threads of a VM, its guest worker and the coordinator, mark pages. One thread harvests the marks and
 * copies. No write is lost:
 *
 * 1. A writer marks a page *after* it has written the bytes. A harvest clears the mark *before* the page is copied.
 *    Both are atomic read-modify-writes of the same word, so that one of them is first. If the mark is first, the
 *    harvest that sees it also sees the bytes, and so does the copy after it. If the harvest is first, the mark stays
 *    for the next one.
 * 2. A writer sets the bit even if it is already set. If it only checked the bit, its plain store and that load could
 *    be reordered. A harvest could then clear the bit and copy the page before the new bytes are visible.
 * 3. No flag tells a writer whether to mark. Every writing thread attaches the log before the first full copy begins.
 *    The copy contains the bytes written before that, and every later write is marked.
 *
 * The last harvest must come after the writers have stopped, as in the last round of a migration.
 */
import * as mem from '#mem';
import { PAGE_SIZE } from './address.ts';

const { ld, or, xchg, and, fillWords } = mem;

const BITS = 32;
const BYTES_PER_WORD = 4;

/** Handle with which another thread marks in the same log. */
export type RamLogHandle = SharedArrayBuffer;

/** One thread's view of a log. Page indices are in RAM order: RAM below 4 GiB, then RAM above, without the hole. */
export class RamLog {
  readonly handle: RamLogHandle;
  readonly #words: mem.SharedWords;

  constructor(handle: RamLogHandle) {
    this.handle = handle;
    this.#words = mem.wordsOf(handle);
  }

  /** Allocates an empty log for `bytes` of RAM. @throws RangeError unless it is a positive multiple of 4 KiB */
  static allocate(bytes: number): RamLog {
    if (!(Number.isSafeInteger(bytes) && bytes > 0 && bytes % PAGE_SIZE === 0))
      throw new RangeError(`a log of ${bytes} bytes of RAM; accepted: positive multiples of ${PAGE_SIZE}`);
    return new RamLog(new SharedArrayBuffer(RamLog.bytesFor(bytes)));
  }

  /** Returns the size of the log for `bytes` of RAM. */
  static bytesFor(bytes: number): number {
    return Math.ceil(bytes / PAGE_SIZE / BITS) * BYTES_PER_WORD;
  }

  /** Marks `count` pages from `page` on. Call it after writing their bytes. */
  mark(page: number, count = 1): void {
    const end = page + count;
    for (let at = page; at < end; ) {
      const bit = at % BITS;
      const run = Math.min(BITS - bit, end - at);
      or(this.#words, Math.floor(at / BITS), maskOf(bit, run), 'ramlog.mark');
      at += run;
    }
  }

  /** Clears the mark of a page. Returns true if it was set. Call it before copying the page. */
  take(page: number): boolean {
    const [at, bit] = [Math.floor(page / BITS), 1 << (page % BITS)];
    // Load first, because most pages are clean. A mark set after the load is left to the next harvest.
    if ((ld(this.#words, at, 'ramlog.take') & bit) === 0) return false;
    return (and(this.#words, at, ~bit, 'ramlog.take') & bit) !== 0;
  }

  /** Clears all marks and visits the marked pages in ascending order. Each may be copied at once. */
  harvest(visit: (page: number) => void): void {
    for (let at = 0; at < this.#words.length; at++) {
      if (ld(this.#words, at, 'ramlog.take') === 0) continue;
      let bits = xchg(this.#words, at, 0, 'ramlog.take');
      while (bits !== 0) {
        const lowest = 31 - Math.clz32(bits & -bits);
        visit(at * BITS + lowest);
        bits &= bits - 1;
      }
    }
  }

  /** Returns the count of marked pages, and leaves the marks. */
  count(): number {
    let marked = 0;
    for (let at = 0; at < this.#words.length; at++)
      for (let bits = ld(this.#words, at, 'ramlog.take'); bits !== 0; bits &= bits - 1) marked++;
    return marked;
  }

  /** Clears all marks, before the first full copy begins. */
  clear(): void {
    fillWords(this.#words, 0, this.#words.length, 0, 'ramlog.clear');
  }
}

/** Returns a mask of `run` bits, 1 to 32, from `bit` on. */
const maskOf = (bit: number, run: number): number => (run === BITS ? -1 : (1 << run) - 1) << bit;
