/**
 * The RAM log: which pages of guest RAM were written by others than devices, one bit per 4 KiB page in RAM order. What
 * a migration copies again; devices have a log of their own (pin-table/page-log.ts).
 *
 * The threads of a VM that write its RAM, the guest's worker and the coordinator, mark; one thread harvests and copies.
 * Why no write is lost:
 *
 * - A page is marked *after* its bytes, and a harvest takes the mark *before* the page is copied. Both are atomic
 *   read-modify-writes of the same word, so one comes first. If it is the mark, the harvest that sees it sees the bytes
 *   as well, and so does the copy that follows. If it is the harvest, the mark stays for the next one.
 * - A mark is made also where the bit is set already. To look first and leave it would be a plain order of a store and a
 *   load: a harvest in between could take the bit and copy a page whose new bytes are still on their way.
 * - There is no flag that says whether to mark. Every writing thread has attached the log before the first full copy
 *   begins: what it wrote before, the copy finds; what it writes afterwards, it marks.
 *
 * The last harvest must come after the writers have stopped, as the last round of a migration does.
 */
import * as mem from '#mem';
import { PAGE_SIZE } from './address.ts';

const { ld, or, xchg, and, fillWords } = mem;

const BITS = 32;
const BYTES_PER_WORD = 4;

/** What another thread needs to mark in the same log. */
export type RamLogHandle = SharedArrayBuffer;

/** One thread's view of a log. Pages are numbered in RAM order: below 4 GiB first, then above, without the hole. */
export class RamLog {
  readonly handle: RamLogHandle;
  readonly #words: mem.SharedWords;

  constructor(handle: RamLogHandle) {
    this.handle = handle;
    this.#words = mem.wordsOf(handle);
  }

  /** A log of so many bytes of RAM, with no mark. @throws RangeError unless it is a positive multiple of 4 KiB */
  static allocate(bytes: number): RamLog {
    if (!(Number.isSafeInteger(bytes) && bytes > 0 && bytes % PAGE_SIZE === 0))
      throw new RangeError(`a log of ${bytes} bytes of RAM; accepted: positive multiples of ${PAGE_SIZE}`);
    return new RamLog(new SharedArrayBuffer(RamLog.bytesFor(bytes)));
  }

  /** Size of the log of so many bytes of RAM. */
  static bytesFor(bytes: number): number {
    return Math.ceil(bytes / PAGE_SIZE / BITS) * BYTES_PER_WORD;
  }

  /** Marks `count` pages from `page` on as written: after their bytes. */
  mark(page: number, count = 1): void {
    const end = page + count;
    for (let at = page; at < end; ) {
      const bit = at % BITS;
      const run = Math.min(BITS - bit, end - at);
      or(this.#words, Math.floor(at / BITS), maskOf(bit, run), 'ramlog.mark');
      at += run;
    }
  }

  /** Takes one page's mark away: true if there was one. Before the page is copied. */
  take(page: number): boolean {
    const [at, bit] = [Math.floor(page / BITS), 1 << (page % BITS)];
    // A load first, because most pages are clean; a mark that comes behind it is the next harvest's.
    if ((ld(this.#words, at, 'ramlog.take') & bit) === 0) return false;
    return (and(this.#words, at, ~bit, 'ramlog.take') & bit) !== 0;
  }

  /** Takes all marks away and hands `visit` the marked pages, ascending. Each may be copied at once. */
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

  /** Marked pages now, left as they are. */
  count(): number {
    let marked = 0;
    for (let at = 0; at < this.#words.length; at++)
      for (let bits = ld(this.#words, at, 'ramlog.take'); bits !== 0; bits &= bits - 1) marked++;
    return marked;
  }

  /** Takes every mark away, unseen: before the first full copy begins. */
  clear(): void {
    fillWords(this.#words, 0, this.#words.length, 0, 'ramlog.clear');
  }
}

/** `run` bits from `bit` on; 1 to 32 of them. */
const maskOf = (bit: number, run: number): number => (run === BITS ? -1 : (1 << run) - 1) << bit;
