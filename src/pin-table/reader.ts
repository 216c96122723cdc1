/**
 * A device thread's side of a pin table: sections, lookups, pins. No messages, no locks.
 */
import * as mem from '#mem';
import * as address from '../memory/address.ts';
import * as layout from './layout.ts';
import { PageLog } from './page-log.ts';
import * as pins from './pin-counts.ts';
import * as protocol from './protocol.ts';
import * as walk from './walk.ts';
import { bindKernels, type PinKernels, type PinTableHandle } from './wasm/kernels.ts';

const { rd, wr } = mem;
const { PAGE_1G, PAGE_SIZE } = address;
const {
  LIST_PAGES,
  MAGIC,
  MAX_READERS,
  OUTSIDE,
  PERM_MASK,
  PFN_SHIFT,
  readerEpoch,
  TABLE_IOVA_LIMIT,
  WORD_LISTS,
  WORD_MAGIC,
} = layout;
const BYTES = Int32Array.BYTES_PER_ELEMENT;
const { pinPage, unpinPage } = pins;
const { dmaEnter, dmaExit, switchSequence } = protocol;
const { lookup, lookupAt } = walk;

export { PIN_DENIED, PIN_UNMAPPED } from './pin-counts.ts';

/** Thrown for a misuse of a pin table, which is always the emulator's own error. */
export class PinTableError extends Error {
  override name = 'PinTableError';
}

/** One thread's access to one pin table, through its reader slot. */
export class PinTableReader {
  readonly #table: mem.SharedWords;
  readonly #slot: number;
  /** Byte address of this reader's epoch word. */
  readonly #epoch: number;
  /** Word index of this reader's list. */
  readonly #list: number;
  readonly #kernels: PinKernels | undefined;
  readonly #log: PageLog;
  #generation = OUTSIDE;

  /** Uses the WebAssembly kernels if given a handle that has them, and JavaScript otherwise. @throws PinTableError */
  constructor(table: SharedArrayBuffer | PinTableHandle, slot: number) {
    const handle = table instanceof SharedArrayBuffer ? { sab: table } : table;
    this.#table = mem.wordsOf(handle.sab);
    if (rd(this.#table, WORD_MAGIC, 'table.init') !== MAGIC) throw new PinTableError('not a pin table');
    if (!(Number.isInteger(slot) && slot >= 0 && slot < MAX_READERS))
      throw new PinTableError(`reader slot ${slot}; accepted: 0 to ${MAX_READERS - 1}`);
    this.#slot = slot;
    this.#epoch = readerEpoch(slot) * BYTES;
    this.#list = rd(this.#table, WORD_LISTS, 'table.init') + slot * LIST_PAGES;
    this.#kernels = bindKernels(handle);
    this.#log = new PageLog(this.#table);
  }

  /** Opens a short-DMA section. Sections do not nest and must close within microseconds: an unmap waits for them. */
  enter(): void {
    const kernels = this.#kernels;
    this.#generation = kernels
      ? kernels.enter(this.#epoch, this.#generation)
      : dmaEnter(this.#table, this.#slot, this.#generation);
  }

  exit(): void {
    const kernels = this.#kernels;
    if (kernels) kernels.exit(this.#epoch);
    else dmaExit(this.#table, this.#slot);
  }

  /** {@link lookup} of an IOVA below 2^48 that is split into GiB and the rest (see `lookupAt` in walk.ts). */
  lookupAt(gib: number, low: number): number {
    return lookupAt(this.#table, gib, low);
  }

  /** Returns the leaf word of the page at `iova` (see `lookup` in walk.ts). Only inside a section. */
  lookup(iova: number): number {
    return lookup(this.#table, iova);
  }

  /** True if writes must be marked. Read it only inside a section. */
  get logsWrites(): boolean {
    return this.#log.loggingInSection;
  }

  /** Marks a host page to which this section has already written. */
  markWritten(pfn: number): void {
    this.#log.mark(pfn);
  }

  /** Notes a held host page. Call it after its first pin and before its first use. */
  noteHeld(pfn: number): void {
    if (this.#log.exists) this.#log.note(this.#slot, pfn, true);
  }

  /** Marks a held host page and clears its note. Call it before its last pin is dropped. */
  noteReleased(pfn: number): void {
    if (!this.#log.exists) return;
    if (this.#log.logging) this.#log.mark(pfn);
    this.#log.note(this.#slot, pfn, false);
  }

  /** The switch sequence; see `switchSequence` in protocol.ts. */
  get switchSequence(): number {
    return switchSequence(this.#table);
  }

  /**
   * Pins the page at `iova` for `perm`. Returns its host PFN, PIN_UNMAPPED or PIN_DENIED. Must not be called inside a
   * section: it opens its own, so that no node is reused during the walk.
   */
  pin(iova: number, perm: number): number {
    const kernels = this.#kernels;
    if (kernels && iova >= 0 && iova < TABLE_IOVA_LIMIT)
      return kernels.pin((iova / PAGE_1G) | 0, iova | 0, perm, this.#epoch);
    this.enter();
    const result = pinPage(this.#table, iova, perm);
    this.exit();
    return result;
  }

  /** Drops one pin of the page at `iova`. Returns false if nothing is mapped there, so there was no pin. */
  unpin(iova: number): boolean {
    const kernels = this.#kernels;
    if (kernels && iova >= 0 && iova < TABLE_IOVA_LIMIT)
      return kernels.unpin((iova / PAGE_1G) | 0, iova | 0, this.#epoch) !== 0;
    this.enter();
    const had = unpinPage(this.#table, iova);
    this.exit();
    return had;
  }

  /**
   * Pins up to `count` pages from `iova` on for `perm`; stops at the first that cannot be pinned. Returns the count of
   * pinned pages. {@link lookup} then finds their host PFNs, also outside a section: a pinned page's entry stays.
   */
  pinRun(iova: number, count: number, perm: number): number {
    const kernels = this.#kernels;
    return this.#inGibs(iova, count, (at, pages) => {
      if (kernels && at >= 0 && at + pages * PAGE_SIZE <= TABLE_IOVA_LIMIT)
        return kernels.pinRun((at / PAGE_1G) | 0, at | 0, pages, perm, this.#epoch);
      let done = 0;
      while (done < pages && this.pin(at + done * PAGE_SIZE, perm) >= 0) done++;
      return done;
    });
  }

  /** Drops one pin of up to `count` pages from `iova` on; stops at the first unmapped one. Returns the pages done. */
  unpinRun(iova: number, count: number): number {
    const kernels = this.#kernels;
    return this.#inGibs(iova, count, (at, pages) => {
      if (kernels && at >= 0 && at + pages * PAGE_SIZE <= TABLE_IOVA_LIMIT)
        return kernels.unpinRun((at / PAGE_1G) | 0, at | 0, pages, this.#epoch);
      let done = 0;
      while (done < pages && this.unpin(at + done * PAGE_SIZE)) done++;
      return done;
    });
  }

  /**
   * Puts a page into the list for {@link lookupList}.
   * @param index 0 to LIST_PAGES - 1
   * @param page IOVA / 4096, below 2^32
   */
  list(index: number, page: number): void {
    wr(this.#table, this.#list + index, page, 'table.list');
  }

  /**
   * Looks up the first `count` pages of the list. Only inside a section. Random pages of a large table cost less in a
   * list than one by one, because their cache misses overlap.
   */
  lookupList(count: number): void {
    if (this.#kernels) this.#kernels.lookupList(this.#list * BYTES, count);
    else
      for (let i = 0; i < count; i++) {
        const page = rd(this.#table, this.#list + i, 'table.list');
        wr(this.#table, this.#list + i, lookupAt(this.#table, page >>> 18, page << 12), 'table.list');
      }
  }

  /** Returns the leaf word of a page of the list, after {@link lookupList}. */
  listed(index: number): number {
    return rd(this.#table, this.#list + index, 'table.list');
  }

  /** Calls `act` for the pages of each GiB, until it does fewer than asked. Returns the count of pages done. */
  #inGibs(iova: number, count: number, act: (iova: number, pages: number) => number): number {
    let done = 0;
    while (done < count) {
      const at = iova + done * PAGE_SIZE;
      const pages = Math.min(count - done, Math.ceil((PAGE_1G - (at % PAGE_1G)) / PAGE_SIZE));
      const acted = act(at, pages);
      done += acted;
      if (acted < pages) break;
    }
    return done;
  }
}

/** Returns the host PFN of a leaf word. */
export const framePfn = (leaf: number): number => leaf >>> PFN_SHIFT;
/** Returns the permissions of a leaf word. */
export const framePerm = (leaf: number): number => leaf & PERM_MASK;
