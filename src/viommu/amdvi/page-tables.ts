/**
 * Host page tables in guest RAM (specification section 2.2.3): up to six levels, of which an entry may skip some, and
 * pages of every size that a level can encode.
 *
 * A walk uses no BigInt and copies no table. It ends whatever the guest writes into its tables: the levels bound its
 * depth, {@link WALK_ENTRY_LIMIT} bounds its length.
 */

import * as amdvi from '../../abi/amdvi.ts';
import { type Gpa, type Iova, PERM_READ, PERM_WRITE } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { isInterruptAddress, visitOutsideInterrupts } from '../interrupt-range.ts';
import { IOVA_LIMIT, type Translation, type TranslationVisitor } from '../notifier.ts';
import type { EntryDecoder } from './entries.ts';
import { type Fault, illegalEntry, notPresent, permissionDenied, unreadable } from './faults.ts';
import type { DeviceTables } from './tables.ts';

/** A replay visits at most this many entries: 8192 full tables, 16 GiB of 4 KiB pages. */
export const WALK_ENTRY_LIMIT = 2 ** 22;

/** Called after each walk with the entries it has read. Above {@link WALK_ENTRY_LIMIT} the walk was cut. */
export type OnWalked = (entries: number) => void;

/** Bits of a leaf that matter: address, NextLevel and PR; address, reserved bits, IR and IW. */
const LEAF_LOW = 0xffff_fe01;
const LEAF_HIGH = 0x6fff_ffff & ~0x0800_0000;

interface Walk {
  readonly start: number;
  readonly end: number;
  readonly visit: TranslationVisitor;
  entriesLeft: number;
}

/** The tables of one device table entry. Every call reads them from guest RAM. */
export class HostPageTables implements DeviceTables {
  readonly key: string;
  readonly #ram: GuestRam;
  readonly #root: number;
  readonly #levels: number;
  readonly #perm: number;
  readonly #decoder: EntryDecoder;
  readonly #onWalked: OnWalked;
  /** End of the IOVAs that the levels translate. */
  readonly #end: number;

  /**
   * @param root GPA of the top table
   * @param levels 1 to 6
   * @param perm permissions of the device table entry
   */
  constructor(
    ram: GuestRam,
    { root, levels, perm }: { readonly root: number; readonly levels: number; readonly perm: number },
    decoder: EntryDecoder,
    onWalked: OnWalked = () => {},
  ) {
    this.key = `${root}/${levels}/${perm}`;
    this.#ram = ram;
    this.#root = root;
    this.#levels = levels;
    this.#perm = perm;
    this.#decoder = decoder;
    this.#onWalked = onWalked;
    this.#end = 2 ** amdvi.widthOfLevels(levels);
  }

  /** Containers hold no IOVA beyond the 48 bits that the capability block announces. */
  get limit(): number {
    return Math.min(this.#end, IOVA_LIMIT);
  }

  /** Returns the translation that serves one access, or the fault. `iova` may be any multiple of 4096 below 2^64. */
  translate(iova: number, write: boolean): Translation | Fault {
    const decoder = this.#decoder;
    const need = write ? PERM_WRITE : PERM_READ;
    if (decoder.asQemu) {
      if (this.#perm === 0) return notPresent(write);
    } else if ((this.#perm & need) === 0) return permissionDenied(write);
    if (!(iova < this.#end)) return notPresent(write);
    let table = this.#root;
    let perm = this.#perm;
    for (let level = this.#levels; ; level = decoder.next) {
      const entry = table + indexOf(iova, level) * amdvi.PTE_BYTES;
      if (!this.#ram.contains(entry, amdvi.PTE_BYTES)) return unreadable(entry);
      const kind = decoder.decode(level, this.#ram.read32(entry), this.#ram.read32(entry + 4), perm);
      if (kind === 'absent') return notPresent(write);
      const isRefused = (decoder.perm & need) === 0 && (kind === 'leaf' || !decoder.asQemu);
      if (isRefused) return permissionDenied(write);
      if (kind === 'leaf') return this.#pieceAt(iova, level);
      if (kind === 'invalid' || (!decoder.asQemu && this.#skipsBits(iova, level))) return illegalEntry(write);
      table = decoder.target;
      perm = decoder.perm;
    }
  }

  leafAt(iova: number): Translation | undefined {
    if (!(iova < this.limit) || isInterruptAddress(iova)) return undefined;
    const leaf = this.#descend(iova);
    let found: Translation | undefined;
    if (leaf)
      visitOutsideInterrupts(leaf.iova, leaf.gpa, leaf.size, leaf.perm, (at, gpa, size, perm) => {
        if (iova >= at && iova < at + size) found = { iova: at, gpa, size, perm };
      });
    return found;
  }

  walk(start: number, end: number, visit: TranslationVisitor): void {
    const walk = { start, end: Math.min(end, this.limit), visit, entriesLeft: WALK_ENTRY_LIMIT };
    if (start < walk.end) this.#walkTable(walk, this.#root, this.#levels, 0, this.#perm);
    this.#onWalked(WALK_ENTRY_LIMIT - walk.entriesLeft);
  }

  /** Returns the whole translation that covers `iova`, whatever its permissions; undefined if it has none. */
  #descend(iova: number): Translation | undefined {
    const decoder = this.#decoder;
    let table = this.#root;
    let perm = this.#perm;
    for (let level = this.#levels; perm !== 0; level = decoder.next) {
      const index = indexOf(iova, level);
      const entry = table + index * amdvi.PTE_BYTES;
      if (!this.#ram.contains(entry, amdvi.PTE_BYTES)) return undefined;
      const kind = decoder.decode(level, this.#ram.read32(entry), this.#ram.read32(entry + 4), perm);
      if (kind === 'leaf') {
        if (decoder.perm === 0) return undefined;
        const span = amdvi.spanOfLevel(level);
        const count = decoder.size / span;
        if (count > 1 && this.#isWhole(this.#ram.wordIndex(table), index, count))
          return pageOf(iova, decoder.target, decoder.size, decoder.perm);
        // A container holds a page that is smaller than its entry's span only once.
        const piece = this.#pieceAt(iova, level);
        return piece.iova % span < piece.size ? piece : undefined;
      }
      if (kind !== 'table' || this.#skipsBits(iova, level)) return undefined;
      table = decoder.target;
      perm = decoder.perm;
    }
    return undefined;
  }

  /** Returns the part of the decoded leaf's page that its entry alone translates. */
  #pieceAt(iova: number, level: number): Translation {
    const { target, size, perm } = this.#decoder;
    const span = amdvi.spanOfLevel(level);
    if (size <= span) return pageOf(iova, target, size, perm);
    const at = iova - (iova % span);
    return { iova: at as Iova, gpa: (target + (at % size)) as Gpa, size: span, perm };
  }

  /**
   * The specification requires the bits that a table entry skips to be 0. QEMU ignores them, so that its tables repeat; a
   * container holds them once.
   */
  #skipsBits(iova: number, level: number): boolean {
    return iova % amdvi.spanOfLevel(level) >= amdvi.spanOfLevel(this.#decoder.next + 1);
  }

  /** True if all `count` entries of an encoded page are in one table and equal the one at `index`. */
  #isWhole(words: number, index: number, count: number): boolean {
    if (count >= amdvi.PTES) return false;
    const first = index - (index % count);
    const low = this.#ram.wordAt(words + 2 * index) & LEAF_LOW;
    const high = this.#ram.wordAt(words + 2 * index + 1) & LEAF_HIGH;
    for (let i = first; i < first + count; i++) {
      if ((this.#ram.wordAt(words + 2 * i) & LEAF_LOW) !== low) return false;
      if ((this.#ram.wordAt(words + 2 * i + 1) & LEAF_HIGH) !== high) return false;
    }
    return true;
  }

  #walkTable(walk: Walk, table: number, level: number, base: number, perm: number): void {
    const decoder = this.#decoder;
    const span = amdvi.spanOfLevel(level);
    if (perm === 0 || !this.#ram.contains(table, amdvi.PTES * amdvi.PTE_BYTES)) return;
    const first = Math.max(0, Math.floor((walk.start - base) / span));
    const last = Math.min(amdvi.PTES, Math.ceil((walk.end - base) / span));
    const words = this.#ram.wordIndex(table);
    for (let i = first; i < last; i++) {
      // The count stays below 0 at every level, so that the whole walk unwinds.
      if (walk.entriesLeft < 0 || --walk.entriesLeft < 0) return;
      const low = this.#ram.wordAt(words + 2 * i);
      if ((low & amdvi.PTE_PR) === 0) continue;
      const kind = decoder.decode(level, low, this.#ram.wordAt(words + 2 * i + 1), perm);
      if (kind === 'leaf') i = this.#emitLeaf(walk, words, i, level, base);
      else if (kind === 'table')
        this.#walkTable(walk, decoder.target, decoder.next, base + i * span, decoder.perm);
    }
  }

  /** Visits the decoded leaf, with the other entries of its page. Returns the index of the last entry visited. */
  #emitLeaf(walk: Walk, words: number, index: number, level: number, base: number): number {
    const { target, size, perm } = this.#decoder;
    if (perm === 0) return index;
    const span = amdvi.spanOfLevel(level);
    const at = base + index * span;
    if (size <= span) this.#emit(walk, at, target, size, perm);
    else {
      const count = size / span;
      walk.entriesLeft -= Math.min(count, amdvi.PTES);
      if (this.#isWhole(words, index, count)) {
        const first = index - (index % count);
        this.#emit(walk, base + first * span, target, size, perm);
        return first + count - 1;
      }
      this.#emit(walk, at, target + (at % size), span, perm);
    }
    return index;
  }

  /** Visits a translation, without its part in the interrupt range. */
  #emit(walk: Walk, at: number, gpa: number, size: number, perm: number): void {
    if (at >= walk.end) return;
    const isClear = at >= amdvi.INTERRUPT_RANGE_END || at + size <= amdvi.INTERRUPT_RANGE_START;
    const goOn = isClear
      ? at + size <= walk.start || walk.visit(at as Iova, gpa as Gpa, size, perm) !== false
      : visitOutsideInterrupts(at as Iova, gpa as Gpa, size, perm, within(walk));
    if (!goOn) walk.entriesLeft = -1;
  }
}

/** Returns a visitor that visits what lies in the walk's range. */
const within =
  ({ start, end, visit }: Walk): TranslationVisitor =>
  (iova, gpa, size, perm) =>
    iova < end && iova + size > start ? visit(iova, gpa, size, perm) : true;

const indexOf = (iova: number, level: number): number =>
  Math.floor(iova / amdvi.spanOfLevel(level)) % amdvi.PTES;

/** Returns the naturally aligned page of `size` bytes that covers `iova`. */
const pageOf = (iova: number, gpa: number, size: number, perm: number): Translation => ({
  iova: (iova - (iova % size)) as Iova,
  gpa: gpa as Gpa,
  size,
  perm,
});
