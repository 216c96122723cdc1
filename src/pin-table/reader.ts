/**
 * A device thread's end of a pin table: sections, lookups, pins. No messages, no locks.
 */
import * as mem from '#mem';
import { PAGE_1G, PAGE_2M, PAGE_SIZE } from '../address/address.ts';
import { MAGIC, MAX_READERS, OUTSIDE, PERM_MASK, PFN_SHIFT, WORD_MAGIC } from './layout.ts';
import { dmaEnter, dmaExit, pinAcquire, pinRelease, switchSequence } from './protocol.ts';
import { findEntry, leafShift, lookup } from './walk.ts';

const { rd } = mem;

/** Answers of {@link PinTableReader.pin} that are not a host PFN: no mapping (or PIN_LIMIT reached), no permission. */
export const PIN_UNMAPPED = -1;
export const PIN_DENIED = -2;

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
    const result = this.#pin(iova, perm);
    this.exit();
    return result;
  }

  /** Drops one pin of the page at `iova`. False if nothing is mapped there: the pin was never had. */
  unpin(iova: number): boolean {
    this.enter();
    const entry = findEntry(this.#table, iova);
    if (entry !== 0) pinRelease(this.#table, entry);
    this.exit();
    return entry !== 0;
  }

  #pin(iova: number, perm: number): number {
    const entry = findEntry(this.#table, iova);
    if (entry === 0) return PIN_UNMAPPED;
    if (!pinAcquire(this.#table, entry)) return PIN_UNMAPPED;
    // The pin holds the frame word, and with it the mapping: read it only now.
    const frame = rd(this.#table, entry, 'walk.frame');
    if ((frame & perm) !== perm) {
      pinRelease(this.#table, entry);
      return PIN_DENIED;
    }
    return (frame >>> PFN_SHIFT) + pageInLeaf(leafShift(this.#table, iova), iova);
  }
}

/** Index of the 4 KiB page at `iova` inside its leaf. */
function pageInLeaf(shift: number, iova: number): number {
  if (shift === 21) return Math.floor((iova % PAGE_2M) / PAGE_SIZE);
  return shift === 30 ? Math.floor((iova % PAGE_1G) / PAGE_SIZE) : 0;
}

/** Host PFN of a leaf word. */
export const framePfn = (leaf: number): number => leaf >>> PFN_SHIFT;
/** Permissions of a leaf word. */
export const framePerm = (leaf: number): number => leaf & PERM_MASK;
