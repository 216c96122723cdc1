/**
 * A device thread's end of a pin table: sections, lookups, pins. No messages, no locks.
 */
import * as mem from '#mem';
import * as address from '../memory/address.ts';
import * as layout from './layout.ts';
import { PageLog } from './page-log.ts';
import * as pins from './pin-counts.ts';
import * as protocol from './protocol.ts';
import * as walk from './walk.ts';
import { bindKernels, type PinKernels, type PinTableHandle } from './wasm/kernels.ts';

const { rd } = mem;
const { PAGE_1G, PAGE_SIZE } = address;
const { MAGIC, MAX_READERS, OUTSIDE, PERM_MASK, PFN_SHIFT, readerEpoch, TABLE_IOVA_LIMIT, WORD_MAGIC } =
  layout;
const { pinPage, unpinPage } = pins;
const { dmaEnter, dmaExit, switchSequence } = protocol;
const { lookup, lookupAt } = walk;

export { PIN_DENIED, PIN_UNMAPPED } from './pin-counts.ts';

/** Thrown when a buffer is not a pin table or has no such reader slot: the emulator's own mistake. */
export class PinTableError extends Error {
  override name = 'PinTableError';
}

/** One thread's access to one pin table, through the reader slot it was given. */
export class PinTableReader {
  readonly #table: mem.SharedWords;
  readonly #slot: number;
  /** Byte address of this reader's epoch word. */
  readonly #epoch: number;
  readonly #kernels: PinKernels | undefined;
  readonly #log: PageLog;
  #generation = OUTSIDE;

  /** With a handle it works through the WebAssembly kernels, with a buffer alone in JavaScript. @throws PinTableError */
  constructor(table: SharedArrayBuffer | PinTableHandle, slot: number) {
    const handle = table instanceof SharedArrayBuffer ? { sab: table } : table;
    this.#table = mem.wordsOf(handle.sab);
    if (rd(this.#table, WORD_MAGIC, 'table.init') !== MAGIC) throw new PinTableError('not a pin table');
    if (!(Number.isInteger(slot) && slot >= 0 && slot < MAX_READERS))
      throw new PinTableError(`reader slot ${slot}; accepted: 0 to ${MAX_READERS - 1}`);
    this.#slot = slot;
    this.#epoch = readerEpoch(slot) * Int32Array.BYTES_PER_ELEMENT;
    this.#kernels = bindKernels(handle);
    this.#log = new PageLog(this.#table);
  }

  /** Opens a short-DMA section. Sections do not nest and must be closed within microseconds: unmap waits. */
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

  /** As {@link lookup}, of an IOVA below 2^48 split into GiB and the rest (see {@link lookupAt}). */
  lookupAt(gib: number, low: number): number {
    return lookupAt(this.#table, gib, low);
  }

  /** Leaf word of the page at `iova` (see {@link lookup}); only inside a section. */
  lookup(iova: number): number {
    return lookup(this.#table, iova);
  }

  /** Whether writes must be marked; only inside a section. */
  get logsWrites(): boolean {
    return this.#log.loggingInSection;
  }

  /** Marks a host page that this section has written: after its bytes. */
  markWritten(pfn: number): void {
    this.#log.mark(pfn);
  }

  /** To be told when the first pin of a host page has been taken, before it is used. */
  noteHeld(pfn: number): void {
    if (this.#log.exists) this.#log.note(this.#slot, pfn, true);
  }

  /** To be told when the last pin of a host page is about to be dropped. */
  noteReleased(pfn: number): void {
    if (!this.#log.exists) return;
    if (this.#log.logging) this.#log.mark(pfn);
    this.#log.note(this.#slot, pfn, false);
  }

  /** The switch sequence; see {@link switchSequence}. */
  get switchSequence(): number {
    return switchSequence(this.#table);
  }

  /**
   * Pins the page at `iova` for `perm`. Returns its host PFN, PIN_UNMAPPED or PIN_DENIED. Opens a section for the
   * walk, so that the leaf's node cannot be reused under it; not to be called inside one.
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

  /** Drops one pin of the page at `iova`. False if nothing is mapped there: the pin was never had. */
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
   * Pins `count` pages from `iova` on for `perm`; returns how many, from the first on, before one could not be. Their
   * host PFNs are then found by {@link lookup}, also outside a section: a pinned page's entry stays.
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

  /** Drops one pin of each of `count` pages from `iova` on; returns how many, from the first on, had one mapped there. */
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

  /** Has `act` do a run of pages GiB by GiB, until it does less than asked; returns the pages done. */
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

/** Host PFN of a leaf word. */
export const framePfn = (leaf: number): number => leaf >>> PFN_SHIFT;
/** Permissions of a leaf word. */
export const framePerm = (leaf: number): number => leaf & PERM_MASK;
