/**
 * Second-level (second-stage) page tables in guest RAM. Specification section 3.7 and 9.8.
 *
 * Entries are two 32-bit words; no BigInt and no copy of the table is made. Whatever a guest puts into its tables,
 * a walk ends: its depth is the number of levels and its length is bounded by {@link WALK_ENTRY_LIMIT}.
 */
import type { Gpa, Iova } from '../../address/address.ts';
import { PERM_RW } from '../../address/address.ts';
import type { GuestRam } from '../../host/guest-ram.ts';
import * as vtd from '../../pci/vtd-format.ts';
import type { Translation, TranslationSource, TranslationVisitor } from '../notifier.ts';
import type { IntelCapabilities } from './registers.ts';
import { aboveWidth, tablePointer } from './root-context.ts';

/** A replay visits at most this many entries: 8192 full tables, 16 GiB of 4 KiB pages. */
export const WALK_ENTRY_LIMIT = 2 ** 22;

/** High-word bits 19:0 hold address bits 51:32. */
const HIGH_ADDRESS = 0xfffff;
/** Bit 62: TM in old revisions, reserved since. */
const BIT_62 = 0x40000000;
const BIT_11 = 0x800;

/** Which bits of an entry must be 0, by level and by whether it is a leaf; level 1 is the lowest. */
export class SecondLevelFormat {
  readonly awBits: 39 | 48;
  readonly #leafLow: readonly number[];
  readonly #tableLow: readonly number[];
  readonly #leafHigh: number;
  readonly #tableHigh: number;

  constructor(options: IntelCapabilities) {
    this.awBits = options.awBits;
    // Index = level. Large pages also reserve their low address bits; a 4 KiB leaf with ECAP.SC has SNP in bit 11.
    this.#leafLow = [0, options.snoopControl ? 0 : BIT_11, 0x1ff800, 0x3ffff800];
    this.#tableLow = [0, BIT_11, BIT_11, BIT_11, BIT_11 | vtd.SL_PS];
    this.#tableHigh = (aboveWidth(options.awBits) & HIGH_ADDRESS) | BIT_62;
    const hasTm = options.staleTm && options.deviceIotlb;
    this.#leafHigh = hasTm ? this.#tableHigh & ~BIT_62 : this.#tableHigh;
  }

  /** Level 1 entries are leaves, level 2 and 3 entries with PS set; level 4 has no leaves. */
  isLeaf(level: number, low: number): boolean {
    return level === 1 || ((low & vtd.SL_PS) !== 0 && level <= 3);
  }

  reservedSet(level: number, leaf: boolean, low: number, high: number): boolean {
    const lowMask = (leaf ? this.#leafLow : this.#tableLow)[level] as number;
    return (low & lowMask) !== 0 || (high & (leaf ? this.#leafHigh : this.#tableHigh)) !== 0;
  }
}

interface Walk {
  readonly start: number;
  readonly end: number;
  readonly visit: TranslationVisitor;
  entriesLeft: number;
}

/** The tables of one domain. Holds nothing but their place: every call reads guest RAM. */
export class SecondLevelTables implements TranslationSource {
  readonly root: number;
  readonly levels: number;
  readonly #ram: GuestRam;
  readonly #format: SecondLevelFormat;
  readonly #limit: number;
  readonly #onWalked: (entries: number) => void;

  /**
   * @param root GPA of the top table
   * @param levels 3 or 4
   * @param onWalked called after each walk with the entries it looked at; above {@link WALK_ENTRY_LIMIT} it was cut
   */
  constructor(
    ram: GuestRam,
    root: number,
    levels: number,
    format: SecondLevelFormat,
    onWalked: (entries: number) => void = () => {},
  ) {
    this.root = root;
    this.levels = levels;
    this.#ram = ram;
    this.#format = format;
    this.#limit = 2 ** Math.min(vtd.widthOfLevels(levels), format.awBits);
    this.#onWalked = onWalked;
  }

  /** The leaf that serves one access, or the fault reason (section 7.1.3). */
  translate(iova: number, write: boolean): Translation | number {
    return this.#descend(iova, write ? vtd.SL_W : vtd.SL_R);
  }

  leafAt(iova: number): Translation | undefined {
    if (iova >= vtd.INTERRUPT_RANGE_START && iova < vtd.INTERRUPT_RANGE_END) return undefined;
    const leaf = this.#descend(iova, 0);
    if (typeof leaf === 'number') return undefined;
    let found: Translation | undefined;
    clipped(leaf.iova, leaf.gpa, leaf.size, leaf.perm, (at, gpa, size, perm) => {
      if (iova >= at && iova < at + size) found = { iova: at, gpa, size, perm };
    });
    return found;
  }

  walk(start: number, end: number, visit: TranslationVisitor): void {
    const walk = { start, end: Math.min(end, this.#limit), visit, entriesLeft: WALK_ENTRY_LIMIT };
    if (start < walk.end) this.#walkTable(walk, this.root, this.levels, 0, PERM_RW);
    this.#onWalked(WALK_ENTRY_LIMIT - walk.entriesLeft);
  }

  /** `need`: the permission asked at each level, or 0 for "any that remains". */
  #descend(iova: number, need: number): Translation | number {
    if (!(iova < this.#limit)) return vtd.FAULT.ADDRESS_BEYOND_MGAW;
    let table = this.root;
    let perm = PERM_RW;
    for (let level = this.levels; level > 0; level--) {
      const span = vtd.spanOfLevel(level);
      const entry = table + (Math.floor(iova / span) % vtd.SL_ENTRIES) * vtd.SL_ENTRY_BYTES;
      if (!this.#ram.contains(entry, vtd.SL_ENTRY_BYTES))
        return level === this.levels ? vtd.FAULT.CONTEXT_INVALID : vtd.FAULT.PAGE_TABLE_UNREADABLE;
      const low = this.#ram.read32(entry);
      const high = this.#ram.read32(entry + 4);
      perm &= low;
      // Permission is checked before reserved bits, at each level.
      if (need === 0 ? perm === 0 : (low & need) === 0)
        return need === vtd.SL_W ? vtd.FAULT.WRITE : vtd.FAULT.READ;
      const leaf = this.#format.isLeaf(level, low);
      if (this.#format.reservedSet(level, leaf, low, high)) return vtd.FAULT.PAGE_TABLE_RESERVED;
      table = tablePointer(low, high & HIGH_ADDRESS);
      if (leaf) {
        if (touchesInterruptRange(table, span)) return vtd.FAULT.INTERRUPT_RANGE;
        return { iova: (iova - (iova % span)) as Iova, gpa: table as Gpa, size: span, perm };
      }
    }
    return vtd.FAULT.PAGE_TABLE_RESERVED;
  }

  #walkTable(walk: Walk, table: number, level: number, base: number, perm: number): void {
    const span = vtd.spanOfLevel(level);
    if (!this.#ram.contains(table, vtd.SL_ENTRIES * vtd.SL_ENTRY_BYTES)) return;
    const first = Math.max(0, Math.floor((walk.start - base) / span));
    const last = Math.min(vtd.SL_ENTRIES, Math.ceil((walk.end - base) / span));
    for (let i = first; i < last; i++) {
      // Below 0 for every level, so that the whole walk unwinds.
      if (walk.entriesLeft < 0 || --walk.entriesLeft < 0) return;
      const entry = table + i * vtd.SL_ENTRY_BYTES;
      const low = this.#ram.read32(entry);
      const granted = perm & low;
      if (granted === 0) continue;
      const high = this.#ram.read32(entry + 4);
      const leaf = this.#format.isLeaf(level, low);
      if (this.#format.reservedSet(level, leaf, low, high)) continue;
      const target = tablePointer(low, high & HIGH_ADDRESS);
      if (!leaf) this.#walkTable(walk, target, level - 1, base + i * span, granted);
      else if (!touchesInterruptRange(target, span)) this.#emit(walk, base + i * span, target, span, granted);
    }
  }

  #emit(walk: Walk, at: number, gpa: number, size: number, perm: number): void {
    clipped(at as Iova, gpa as Gpa, size, perm, (iova, target, bytes, granted) => {
      if (iova >= walk.end || iova + bytes <= walk.start) return;
      if (walk.visit(iova, target, bytes, granted) === false) walk.entriesLeft = -1;
    });
  }
}

/** A leaf that reaches into the interrupt range is refused whole (section 3.14, condition LGN.4), as QEMU does. */
const touchesInterruptRange = (gpa: number, size: number): boolean =>
  gpa < vtd.INTERRUPT_RANGE_END && gpa + size > vtd.INTERRUPT_RANGE_START;

/** Visits what of a leaf lies outside the interrupt range: inputs inside it are never translated. */
function clipped(iova: Iova, gpa: Gpa, size: number, perm: number, visit: TranslationVisitor): void {
  const end = iova + size;
  if (iova >= vtd.INTERRUPT_RANGE_END || end <= vtd.INTERRUPT_RANGE_START) {
    visit(iova, gpa, size, perm);
    return;
  }
  if (iova < vtd.INTERRUPT_RANGE_START) visit(iova, gpa, vtd.INTERRUPT_RANGE_START - iova, perm);
  if (end > vtd.INTERRUPT_RANGE_END) {
    const skipped = vtd.INTERRUPT_RANGE_END - iova;
    visit(vtd.INTERRUPT_RANGE_END as Iova, (gpa + skipped) as Gpa, size - skipped, perm);
  }
}
