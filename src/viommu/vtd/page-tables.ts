/**
 * Page tables of either stage: a tree with 512 entries per table, each read as two 32-bit words.
 *
 * A walk uses no BigInt and copies no table. It ends whatever the guest writes into its tables: the levels bound its
 * depth, {@link WALK_ENTRY_LIMIT} bounds its length.
 */

import * as vtd from '../../abi/vtd.ts';
import { type Gpa, type Iova, PERM_RW } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { isInterruptAddress, visitOutsideInterrupts } from '../interrupt-range.ts';
import type { Translation, TranslationSource, TranslationVisitor } from '../notifier.ts';
import { tablePointer } from './legacy-context.ts';

/** A replay visits at most this many entries: 8192 full tables, 16 GiB of 4 KiB pages. */
export const WALK_ENTRY_LIMIT = 2 ** 22;

/** High-word bits 19:0 hold address bits 51:32. */
export const HIGH_ADDRESS = 0xfffff;

/** Entry format of one stage. Level 1 is the lowest. */
export interface EntryFormat {
  /** Returns the permissions of `perm` that the entry grants; 0 if it is not present. */
  granted(perm: number, low: number): number;
  isLeaf(level: number, low: number): boolean;
  /** True if a reserved bit is set. */
  reservedSet(level: number, leaf: boolean, low: number, high: number): boolean;
}

/** Called after each walk with the entries it has read. Above {@link WALK_ENTRY_LIMIT} the walk was cut. */
export type OnWalked = (entries: number) => void;

/** A domain's tables of either stage, as the unit uses them. */
export interface DomainTables extends TranslationSource {
  readonly stage: 1 | 2;
  /** GPA of the top table. */
  readonly root: number;
  readonly levels: number;
  /** IOVA bits that the tables translate. */
  readonly width: number;
  /** Returns the leaf that serves one access, or the fault reason. */
  translate(iova: number, write: boolean): Translation | number;
}

interface Walk {
  readonly start: number;
  readonly end: number;
  readonly visit: TranslationVisitor;
  entriesLeft: number;
}

/** The tables of one domain. Every call reads them from guest RAM; only `translate` may write. */
export abstract class PageTables implements DomainTables {
  abstract readonly stage: 1 | 2;
  readonly root: number;
  readonly levels: number;
  readonly width: number;
  protected readonly ram: GuestRam;
  readonly #format: EntryFormat;
  readonly #limit: number;
  readonly #onWalked: OnWalked;

  /**
   * @param root GPA of the top table
   * @param width IOVA bits that `translate` accepts
   * @param limit end of replays: no container reaches higher
   */
  protected constructor(
    ram: GuestRam,
    root: number,
    levels: number,
    width: number,
    limit: number,
    format: EntryFormat,
    onWalked: OnWalked,
  ) {
    this.ram = ram;
    this.root = root;
    this.levels = levels;
    this.width = width;
    this.#limit = limit;
    this.#format = format;
    this.#onWalked = onWalked;
  }

  abstract translate(iova: number, write: boolean): Translation | number;

  leafAt(iova: number): Translation | undefined {
    if (!(iova < this.#limit)) return undefined;
    if (isInterruptAddress(iova)) return undefined;
    const leaf = this.#descend(iova);
    let found: Translation | undefined;
    if (leaf)
      visitOutsideInterrupts(leaf.iova, leaf.gpa, leaf.size, leaf.perm, (at, gpa, size, perm) => {
        if (iova >= at && iova < at + size) found = { iova: at, gpa, size, perm };
      });
    return found;
  }

  walk(start: number, end: number, visit: TranslationVisitor): void {
    const walk = { start, end: Math.min(end, this.#limit), visit, entriesLeft: WALK_ENTRY_LIMIT };
    if (start < walk.end) this.#walkTable(walk, this.root, this.levels, 0, PERM_RW);
    this.#onWalked(WALK_ENTRY_LIMIT - walk.entriesLeft);
  }

  /** Returns the whole leaf that covers `iova`, whatever its permissions. */
  #descend(iova: number): Translation | undefined {
    let table = this.root;
    let perm = PERM_RW;
    for (let level = this.levels; level > 0; level--) {
      const entry = entryOf(table, iova, level);
      if (!this.ram.contains(entry, vtd.SL_ENTRY_BYTES)) return undefined;
      const low = this.ram.read32(entry);
      const high = this.ram.read32(entry + 4);
      perm = this.#format.granted(perm, low);
      const leaf = this.#format.isLeaf(level, low);
      if (perm === 0 || this.#format.reservedSet(level, leaf, low, high)) return undefined;
      if (leaf) return leafOf(iova, low, high, level, perm);
      table = tablePointer(low, high & HIGH_ADDRESS);
    }
    return undefined;
  }

  #walkTable(walk: Walk, table: number, level: number, base: number, perm: number): void {
    const span = vtd.spanOfLevel(level);
    if (!this.ram.contains(table, vtd.SL_ENTRIES * vtd.SL_ENTRY_BYTES)) return;
    const first = Math.max(0, Math.floor((walk.start - base) / span));
    const last = Math.min(vtd.SL_ENTRIES, Math.ceil((walk.end - base) / span));
    const words = this.ram.wordIndex(table);
    for (let i = first; i < last; i++) {
      // The count stays below 0 at every level, so that the whole walk unwinds.
      if (walk.entriesLeft < 0 || --walk.entriesLeft < 0) return;
      const low = this.ram.wordAt(words + 2 * i);
      const granted = this.#format.granted(perm, low);
      if (granted === 0) continue;
      const high = this.ram.wordAt(words + 2 * i + 1);
      const leaf = this.#format.isLeaf(level, low);
      if (this.#format.reservedSet(level, leaf, low, high)) continue;
      if (!leaf) {
        this.#walkTable(walk, tablePointer(low, high & HIGH_ADDRESS), level - 1, base + i * span, granted);
        continue;
      }
      const page = pageOf(low, high, span);
      if (!touchesInterruptRange(page, span)) this.#emit(walk, base + i * span, page, span, granted);
    }
  }

  #emit(walk: Walk, at: number, gpa: number, size: number, perm: number): void {
    const end = at + size;
    if (end <= vtd.INTERRUPT_RANGE_START || at >= vtd.INTERRUPT_RANGE_END) {
      if (at >= walk.end || end <= walk.start) return;
      if (walk.visit(at as Iova, gpa as Gpa, size, perm) === false) walk.entriesLeft = -1;
      return;
    }
    visitOutsideInterrupts(at as Iova, gpa as Gpa, size, perm, (iova, target, bytes, granted) => {
      if (iova >= walk.end || iova + bytes <= walk.start) return;
      if (walk.visit(iova, target, bytes, granted) === false) walk.entriesLeft = -1;
    });
  }
}

/** Returns the GPA of the entry for `iova` in a table at `level`. */
export const entryOf = (table: number, iova: number, level: number): number =>
  table + (Math.floor(iova / vtd.spanOfLevel(level)) % vtd.SL_ENTRIES) * vtd.SL_ENTRY_BYTES;

/** Returns the leaf at `level` that covers `iova`, or undefined if its page touches the interrupt range. */
export function leafOf(
  iova: number,
  low: number,
  high: number,
  level: number,
  perm: number,
): Translation | undefined {
  const size = vtd.spanOfLevel(level);
  const gpa = pageOf(low, high, size);
  if (touchesInterruptRange(gpa, size)) return undefined;
  return { iova: (iova - (iova % size)) as Iova, gpa: gpa as Gpa, size, perm };
}

/**
 * Returns the page of a leaf of up to 1 GiB. The bits below the page's size are not address bits: in a large first-stage
 * leaf, bit 12 is PAT. They are masked in the low word, because a remainder of the whole address costs a tenth of a replay.
 */
const pageOf = (low: number, high: number, size: number): number =>
  tablePointer((low & -size) >>> 0, high & HIGH_ADDRESS);

/** A leaf whose target touches the interrupt range is refused as a whole (3.15, LGN.4 and SGN.8), as in QEMU. */
const touchesInterruptRange = (gpa: number, size: number): boolean =>
  gpa < vtd.INTERRUPT_RANGE_END && gpa + size > vtd.INTERRUPT_RANGE_START;
