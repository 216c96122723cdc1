/**
 * First-stage page tables in guest RAM, in the CPU's four-level format. Specification sections 3.6 and 9.7.
 *
 * Translating an access sets A at every level and D at the leaf of a write, as hardware does (section 3.6.2). A walk
 * for a container sets neither: its pages have not been accessed yet. Later accesses through the container are not
 * visible in the guest's tables either.
 */

import * as vtd from '../../abi/vtd.ts';
import { PERM_READ, PERM_RW, PERM_WRITE } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Translation } from '../notifier.ts';
import { aboveWidth, tablePointer } from './legacy-context.ts';
import { type EntryFormat, entryOf, HIGH_ADDRESS, leafOf, type OnWalked, PageTables } from './page-tables.ts';
import type { IntelCapabilities } from './registers.ts';

/** Reserved bits of a large leaf below its address. Bit 12 is PAT: neither reserved nor part of the address. */
const LARGE_2M = 0x1fe000;
const LARGE_1G = 0x3fffe000;
/** Bits that an entry needs for a user request. */
const USABLE = vtd.FS_P | vtd.FS_US;

/** Entry format of the first stage: permissions, reserved bits, and how A and D are set. */
export class FirstStageFormat implements EntryFormat {
  readonly awBits: 39 | 48;
  /** QEMU sets D only together with A: an entry that already has A never gets D. */
  readonly dirtyOnlyWithAccessed: boolean;
  readonly #leafLow: readonly number[];
  readonly #high: number;

  constructor(options: IntelCapabilities, dirtyOnlyWithAccessed = false) {
    this.awBits = options.awBits;
    this.dirtyOnlyWithAccessed = dirtyOnlyWithAccessed;
    const has1G = options.firstStage1G ?? true;
    // Index = level. Without CAP.FS1GP a third-level entry must not have PS.
    this.#leafLow = [0, 0, LARGE_2M, LARGE_1G | (has1G ? 0 : vtd.SL_PS), vtd.SL_PS];
    this.#high = aboveWidth(options.awBits) & HIGH_ADDRESS;
  }

  /** Requests are user requests: each level needs P and U/S. A present entry is readable. */
  granted(perm: number, low: number): number {
    return (low & USABLE) === USABLE ? perm & (PERM_READ | (low & vtd.FS_RW ? PERM_WRITE : 0)) : 0;
  }

  isLeaf(level: number, low: number): boolean {
    return level === 1 || (low & vtd.SL_PS) !== 0;
  }

  reservedSet(level: number, leaf: boolean, low: number, high: number): boolean {
    return (high & this.#high) !== 0 || (leaf && (low & (this.#leafLow[level] as number)) !== 0);
  }
}

/** The first-stage tables of one PASID. */
export class FirstStageTables extends PageTables {
  readonly stage = 1;
  readonly #format: FirstStageFormat;

  /**
   * The width of canonical addresses follows from the levels of the tables. The PASID entry's AW does not matter: it
   * belongs to the second stage. Containers hold only the lower half.
   * @param root GPA of the top table
   */
  constructor(ram: GuestRam, root: number, format: FirstStageFormat, onWalked: OnWalked = () => {}) {
    const width = Math.min(vtd.widthOfLevels(vtd.FS_LEVELS), format.awBits);
    super(ram, root, vtd.FS_LEVELS, width, 2 ** (width - 1), format, onWalked);
    this.#format = format;
  }

  /** Fault reasons are those of section 7.1.4. `iova` may lie in the upper half if it is a multiple of 4096. */
  translate(iova: number, write: boolean): Translation | number {
    if (!isCanonical(iova, this.width)) return vtd.FAULT.FS_NON_CANONICAL;
    let table = this.root;
    let perm = PERM_RW;
    for (let level = this.levels; level > 0; level--) {
      const entry = entryOf(table, iova, level);
      if (!this.ram.contains(entry, vtd.SL_ENTRY_BYTES))
        return level === this.levels ? vtd.FAULT.FS_TOP_UNREADABLE : vtd.FAULT.FS_TABLE_UNREADABLE;
      const low = this.ram.read32(entry);
      const high = this.ram.read32(entry + 4);
      const leaf = this.#format.isLeaf(level, low);
      const refused = this.#check(level, leaf, low, high, write);
      if (refused !== 0) return refused;
      this.#mark(entry, low, leaf && write);
      perm = this.#format.granted(perm, low);
      if (leaf) return leafOf(iova, low, high, level, perm) ?? vtd.FAULT.SM_INTERRUPT_RANGE;
      table = tablePointer(low, high & HIGH_ADDRESS);
    }
    return vtd.FAULT.FS_RESERVED;
  }

  /** Returns the fault reason of one entry, or 0. Permission is checked before reserved bits. */
  #check(level: number, leaf: boolean, low: number, high: number, write: boolean): number {
    if ((low & vtd.FS_P) === 0) return vtd.FAULT.FS_NOT_PRESENT;
    if ((low & vtd.FS_US) === 0) return vtd.FAULT.FS_SUPERVISOR;
    if (write && (low & vtd.FS_RW) === 0) return vtd.FAULT.FS_WRITE;
    return this.#format.reservedSet(level, leaf, low, high) ? vtd.FAULT.FS_RESERVED : 0;
  }

  /** Sets A, and D with `dirty`, by an atomic OR: the guest may be changing the entry at the same time. */
  #mark(entry: number, low: number, dirty: boolean): void {
    const wanted = dirty ? vtd.FS_A | vtd.FS_D : vtd.FS_A;
    const missing = wanted & ~low;
    if (missing === 0 || (this.#format.dirtyOnlyWithAccessed && (low & wanted) !== 0)) return;
    this.ram.setBits32(entry, missing);
  }
}

/** True if bits 63:width−1 are all equal. Exact for multiples of 4096. */
function isCanonical(iova: number, width: number): boolean {
  const half = 2 ** (width - 1);
  return iova < half || (iova >= 2 ** 64 - half && iova < 2 ** 64);
}
