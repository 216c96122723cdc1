/**
 * A device thread's end of a pin table: sections, lookups, pins. No messages, no locks.
 */
import * as mem from '#mem';
import { MAGIC, MAX_READERS, OUTSIDE, PERM_MASK, PFN_SHIFT, WORD_MAGIC } from './layout.ts';
import { pinPage, unpinPage } from './pins.ts';
import { dmaEnter, dmaExit, switchSequence } from './protocol.ts';
import { lookup } from './walk.ts';

const { rd } = mem;

export { PIN_DENIED, PIN_UNMAPPED } from './pins.ts';

/** Thrown when a buffer is not a pin table or has no such reader slot: the emulator's own mistake. */
export class PinTableError extends Error {
  override name = 'PinTableError';
}

/** One thread's access to one pin table, through the reader slot it was given. */
export class PinTableReader {
  readonly #table: mem.SharedWords;
  readonly #slot: number;
  #generation = OUTSIDE;

  /** @throws PinTableError */
  constructor(sab: SharedArrayBuffer, slot: number) {
    this.#table = mem.wordsOf(sab);
    if (rd(this.#table, WORD_MAGIC, 'table.init') !== MAGIC) throw new PinTableError('not a pin table');
    if (!(Number.isInteger(slot) && slot >= 0 && slot < MAX_READERS))
      throw new PinTableError(`reader slot ${slot}; accepted: 0 to ${MAX_READERS - 1}`);
    this.#slot = slot;
  }

  /** Opens a short-DMA section. Sections do not nest and must be closed within microseconds: unmap waits. */
  enter(): void {
    this.#generation = dmaEnter(this.#table, this.#slot, this.#generation);
  }

  exit(): void {
    dmaExit(this.#table, this.#slot);
  }

  /** Leaf word of the page at `iova` (see {@link lookup}); only inside a section. */
  lookup(iova: number): number {
    return lookup(this.#table, iova);
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
    this.enter();
    const result = pinPage(this.#table, iova, perm);
    this.exit();
    return result;
  }

  /** Drops one pin of the page at `iova`. False if nothing is mapped there: the pin was never had. */
  unpin(iova: number): boolean {
    this.enter();
    const had = unpinPage(this.#table, iova);
    this.exit();
    return had;
  }
}

/** Host PFN of a leaf word. */
export const framePfn = (leaf: number): number => leaf >>> PFN_SHIFT;
/** Permissions of a leaf word. */
export const framePerm = (leaf: number): number => leaf & PERM_MASK;
