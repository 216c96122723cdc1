/**
 * Second-level (second-stage) page tables in guest RAM. Specification sections 3.7 and 9.8.
 */

import * as vtd from '../../abi/vtd.ts';
import { PERM_RW } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Translation } from '../notifier.ts';
import { aboveWidth, tablePointer } from './legacy-context.ts';
import { type EntryFormat, entryOf, HIGH_ADDRESS, leafOf, type OnWalked, PageTables } from './page-tables.ts';
import type { IntelCapabilities } from './registers.ts';

/** Bit 62: TM in old specification revisions, reserved since. */
const BIT_62 = 0x40000000;
const BIT_11 = 0x800;

/** Entry format of the second level: reserved bits by level, for tables and leaves. Level 1 is the lowest. */
export class SecondLevelFormat implements EntryFormat {
  readonly awBits: 39 | 48;
  readonly #leafLow: readonly number[];
  readonly #tableLow: readonly number[];
  readonly #leafHigh: number;
  readonly #tableHigh: number;

  constructor(options: IntelCapabilities) {
    this.awBits = options.awBits;
    // Index = level. Large pages also reserve their low address bits. In a 4 KiB leaf, bit 11 is SNP with ECAP.SC
    // or with scalable mode.
    const hasSnoop = (options.snoopControl ?? false) || (options.scalable ?? false);
    this.#leafLow = [0, hasSnoop ? 0 : BIT_11, 0x1ff800, 0x3ffff800];
    this.#tableLow = [0, BIT_11, BIT_11, BIT_11, BIT_11 | vtd.SL_PS];
    this.#tableHigh = (aboveWidth(options.awBits) & HIGH_ADDRESS) | BIT_62;
    const hasTm = options.staleTm && options.deviceIotlb;
    this.#leafHigh = hasTm ? this.#tableHigh & ~BIT_62 : this.#tableHigh;
  }

  /** Every level must grant R and W. */
  granted(perm: number, low: number): number {
    return perm & low;
  }

  /** Leaves are the level 1 entries, and level 2 and 3 entries with PS. Level 4 has no leaves. */
  isLeaf(level: number, low: number): boolean {
    return level === 1 || ((low & vtd.SL_PS) !== 0 && level <= 3);
  }

  reservedSet(level: number, leaf: boolean, low: number, high: number): boolean {
    const lowMask = (leaf ? this.#leafLow : this.#tableLow)[level] as number;
    return (low & lowMask) !== 0 || (high & (leaf ? this.#leafHigh : this.#tableHigh)) !== 0;
  }
}

/** The second-level tables of one domain. */
export class SecondLevelTables extends PageTables {
  readonly stage = 2;
  readonly #format: SecondLevelFormat;
  readonly #interruptFault: number;

  /**
   * @param root GPA of the top table
   * @param levels 3 or 4
   * @param interruptFault fault reason for a target in the interrupt range; scalable mode has its own
   */
  constructor(
    ram: GuestRam,
    root: number,
    levels: number,
    format: SecondLevelFormat,
    onWalked: OnWalked = () => {},
    interruptFault: number = vtd.FAULT.INTERRUPT_RANGE,
  ) {
    const width = Math.min(vtd.widthOfLevels(levels), format.awBits);
    super(ram, root, levels, width, 2 ** width, format, onWalked);
    this.#format = format;
    this.#interruptFault = interruptFault;
  }

  /** Fault reasons are those of section 7.1.3, also in scalable mode, as QEMU records them. */
  translate(iova: number, write: boolean): Translation | number {
    if (!(iova < 2 ** this.width)) return vtd.FAULT.ADDRESS_BEYOND_MGAW;
    const need = write ? vtd.SL_W : vtd.SL_R;
    let table = this.root;
    let perm = PERM_RW;
    for (let level = this.levels; level > 0; level--) {
      const entry = entryOf(table, iova, level);
      if (!this.ram.contains(entry, vtd.SL_ENTRY_BYTES))
        return level === this.levels ? vtd.FAULT.CONTEXT_INVALID : vtd.FAULT.PAGE_TABLE_UNREADABLE;
      const low = this.ram.read32(entry);
      const high = this.ram.read32(entry + 4);
      perm &= low;
      // Permission is checked before reserved bits, at each level.
      if ((low & need) === 0) return write ? vtd.FAULT.WRITE : vtd.FAULT.READ;
      const leaf = this.#format.isLeaf(level, low);
      if (this.#format.reservedSet(level, leaf, low, high)) return vtd.FAULT.PAGE_TABLE_RESERVED;
      if (leaf) return leafOf(iova, low, high, level, perm) ?? this.#interruptFault;
      table = tablePointer(low, high & HIGH_ADDRESS);
    }
    return vtd.FAULT.PAGE_TABLE_RESERVED;
  }
}
