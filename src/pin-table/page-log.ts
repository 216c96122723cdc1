/**
 * The page log: which host pages devices have written, and which they hold pinned, in bitmaps behind the nodes of a
 * pin table. What dirty-page tracking asks (VFIO_IOMMU_DIRTY_PAGES), without a message to any device.
 *
 * One bit per host page and not per leaf: a pin of one page of a 2 MiB leaf makes one page dirty. There is one bitmap
 * of written pages, and one of held pages for each reader, which nobody else writes.
 *
 * Why nothing is lost while devices run:
 *
 * - *A write* is marked after its bytes, in the same DMA section. A query takes the mark before anybody copies the
 *   page; so either the bytes are there for that copy, or the mark comes after the query and the next one finds it.
 * - *Start* raises the flag, bumps the generation and waits for the readers: a section that did not see the flag has
 *   ended before start is complete, and what it wrote belongs to the time before.
 * - *A pin* is noted before the model is given the page. *An unpin* marks the page and then takes the note away, and a
 *   query reads the notes and then the marks: whoever misses the note finds the mark.
 */
import * as mem from '#mem';
import * as layout from './layout.ts';

const { and, fillWords, ld, or, rd, st } = mem;
const { MAX_READERS, WORD_LOG, WORD_LOG_FIRST, WORD_LOG_PAGES, WORD_LOGGING } = layout;

/** The host pages of which a table keeps a log. */
export interface HostPages {
  /** Host PFN of the first. */
  readonly first: number;
  readonly count: number;
}

const wordsOfMap = (pages: number): number => Math.ceil(pages / 32);

/** Words of a log of so many host pages. */
export const logWords = (pages: number): number => wordsOfMap(pages) * (1 + MAX_READERS);

/** One thread's view of a table's log; without a log everything is unlogged and costs a comparison. */
export class PageLog {
  /** Readers whose notes are looked at: only the writing thread knows how many there are. */
  readers = 0;
  readonly #table: mem.SharedWords;
  readonly #first: number;
  readonly #pages: number;
  /** Word indices of the bitmaps: written pages, then those that reader 0 holds, and so on. */
  readonly #written: number;
  readonly #words: number;

  constructor(table: mem.SharedWords) {
    this.#table = table;
    this.#first = rd(table, WORD_LOG_FIRST, 'log.place');
    this.#pages = rd(table, WORD_LOG_PAGES, 'log.place');
    this.#written = rd(table, WORD_LOG, 'log.place');
    this.#words = wordsOfMap(this.#pages);
  }

  /** False: this table was made without a log. */
  get exists(): boolean {
    return this.#pages > 0;
  }

  /** Whether writes are logged now. Inside a DMA section a plain load is enough: the section's entry orders it. */
  get loggingInSection(): boolean {
    return rd(this.#table, WORD_LOGGING, 'log.flag') !== 0;
  }

  get logging(): boolean {
    return ld(this.#table, WORD_LOGGING, 'log.flag') !== 0;
  }

  /** Marks a page as written: after its bytes. */
  mark(pfn: number): void {
    const page = pfn - this.#first;
    if (page >= 0 && page < this.#pages)
      or(this.#table, this.#written + (page >>> 5), 1 << (page & 31), 'log.mark');
  }

  /** Notes that reader `slot` now holds the page, or no longer does. Only that reader's thread calls this. */
  note(slot: number, pfn: number, held: boolean): void {
    const page = pfn - this.#first;
    if (!(page >= 0 && page < this.#pages)) return;
    const word = this.#heldBy(slot) + (page >>> 5);
    const others = rd(this.#table, word, 'log.held') & ~(1 << (page & 31));
    st(this.#table, word, held ? others | (1 << (page & 31)) : others, 'log.held');
  }

  /** The writing thread: from now on, or no longer. Old marks are gone before the first new one. */
  setLogging(on: boolean): void {
    if (on) fillWords(this.#table, this.#written, this.#words, 0, 'log.clear');
    st(this.#table, WORD_LOGGING, on ? 1 : 0, 'log.flag');
  }

  /** The writing thread: whether a page is held by anybody or was written; a mark is taken away. */
  take(pfn: number): boolean {
    const page = pfn - this.#first;
    if (!(page >= 0 && page < this.#pages)) return false;
    const [at, bit] = [page >>> 5, 1 << (page & 31)];
    let dirty = false;
    for (let slot = 0; slot < this.readers && !dirty; slot++)
      dirty = (ld(this.#table, this.#heldBy(slot) + at, 'log.held') & bit) !== 0;
    // A plain look first: most pages are clean.
    if ((ld(this.#table, this.#written + at, 'log.take') & bit) === 0) return dirty;
    return (and(this.#table, this.#written + at, ~bit, 'log.take') & bit) !== 0 || dirty;
  }

  /** The writing thread: what a reader held whose thread has ended counts as written, and is held no longer. */
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
