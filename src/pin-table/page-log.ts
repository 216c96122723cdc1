/**
 * The page log: bitmaps, behind the nodes of a pin table, of the host pages that devices have written and of those
 * that they hold pinned. Dirty-page tracking (VFIO_IOMMU_DIRTY_PAGES) reads them without a message to any device.
 *
 * A bit stands for a host page, not for a leaf: a pin of one page of a 2 MiB leaf makes one page dirty. One bitmap has
 * the written pages. For each reader, one more has the pages that it holds; only that reader writes to it.
 *
 * Why no dirty page is lost while devices run:
 *
 * *Write.*
 * 1. A device writes the bytes, then marks the page, both in one DMA section.
 * 2. A query takes the mark, then its caller copies the page.
 * 3. If the query finds the mark, the copy has the bytes. Otherwise the mark comes after the query, and the next query
 *    finds it.
 *
 * *Start of logging.*
 * 1. The writing thread raises the flag, bumps the generation and waits for the readers.
 * 2. A section that did not see the flag ends before the start is complete, so its writes came before the start.
 *
 * *Pin and unpin.*
 * 1. A pin is noted before the device model gets the page.
 * 2. An unpin marks the page, then clears the note.
 * 3. A query reads the notes, then the marks: if it misses the note, it finds the mark.
 */
import * as mem from '#mem';
import * as layout from './layout.ts';

const { and, fillWords, ld, or, rd, st } = mem;
const { MAX_READERS, WORD_LOG, WORD_LOG_FIRST, WORD_LOG_PAGES, WORD_LOGGING } = layout;

/** Range of host pages that a table logs. */
export interface HostPages {
  /** Host PFN of the first page. */
  readonly first: number;
  readonly count: number;
}

const wordsOfMap = (pages: number): number => Math.ceil(pages / 32);

/** Returns the words that a log of `pages` host pages takes. */
export const logWords = (pages: number): number => wordsOfMap(pages) * (1 + MAX_READERS);

/** One thread's view of a table's log. Without a log, each method costs one comparison and logs nothing. */
export class PageLog {
  /** Count of readers whose notes a query reads. Only the writing thread knows it. */
  readers = 0;
  readonly #table: mem.SharedWords;
  readonly #first: number;
  readonly #pages: number;
  /** Word index of the bitmap of written pages. Those of the pages that reader 0, 1, … holds follow. */
  readonly #written: number;
  readonly #words: number;

  constructor(table: mem.SharedWords) {
    this.#table = table;
    this.#first = rd(table, WORD_LOG_FIRST, 'log.place');
    this.#pages = rd(table, WORD_LOG_PAGES, 'log.place');
    this.#written = rd(table, WORD_LOG, 'log.place');
    this.#words = wordsOfMap(this.#pages);
  }

  /** True if this table has a log. */
  get exists(): boolean {
    return this.#pages > 0;
  }

  /** True if writes are logged now. A plain load is enough inside a DMA section: the section's entry orders it. */
  get loggingInSection(): boolean {
    return rd(this.#table, WORD_LOGGING, 'log.flag') !== 0;
  }

  get logging(): boolean {
    return ld(this.#table, WORD_LOGGING, 'log.flag') !== 0;
  }

  /** Marks a page as written. The bytes must already be in the page. */
  mark(pfn: number): void {
    const page = pfn - this.#first;
    if (page >= 0 && page < this.#pages)
      or(this.#table, this.#written + (page >>> 5), 1 << (page & 31), 'log.mark');
  }

  /** Notes whether reader `slot` holds the page. Only that reader's thread calls this. */
  note(slot: number, pfn: number, held: boolean): void {
    const page = pfn - this.#first;
    if (!(page >= 0 && page < this.#pages)) return;
    const word = this.#heldBy(slot) + (page >>> 5);
    const others = rd(this.#table, word, 'log.held') & ~(1 << (page & 31));
    st(this.#table, word, held ? others | (1 << (page & 31)) : others, 'log.held');
  }

  /** Starts or stops logging; a start clears all marks first. Only the writing thread calls this. */
  setLogging(on: boolean): void {
    if (on) fillWords(this.#table, this.#written, this.#words, 0, 'log.clear');
    st(this.#table, WORD_LOGGING, on ? 1 : 0, 'log.flag');
  }

  /** Returns whether a page is held or was written, and clears its mark. Only the writing thread calls this. */
  take(pfn: number): boolean {
    const page = pfn - this.#first;
    if (!(page >= 0 && page < this.#pages)) return false;
    const [at, bit] = [page >>> 5, 1 << (page & 31)];
    let dirty = false;
    for (let slot = 0; slot < this.readers && !dirty; slot++)
      dirty = (ld(this.#table, this.#heldBy(slot) + at, 'log.held') & bit) !== 0;
    // A load first: most pages are clean.
    if ((ld(this.#table, this.#written + at, 'log.take') & bit) === 0) return dirty;
    return (and(this.#table, this.#written + at, ~bit, 'log.take') & bit) !== 0 || dirty;
  }

  /** Marks the pages that an ended thread's reader held, and clears its notes. Only the writing thread calls this. */
  release(slot: number): void {
    for (let i = 0; i < this.#words; i++) {
      const held = ld(this.#table, this.#heldBy(slot) + i, 'log.held');
      if (held === 0) continue;
      or(this.#table, this.#written + i, held, 'log.mark');
      st(this.#table, this.#heldBy(slot) + i, 0, 'log.held');
    }
  }

  #heldBy(slot: number): number {
    return this.#written + (1 + slot) * this.#words;
  }
}
