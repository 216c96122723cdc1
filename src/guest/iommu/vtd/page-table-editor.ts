/**
 * Editor of a guest's VT-d page tables in guest RAM. Both stages have the same tree (specification sections 9.7 and
 * 9.8); an {@link EntryEncoding} has the differences.
 */

import * as vtd from '../../../abi/vtd.ts';
import { hex, PAGE_SIZE, PERM_READ, PERM_WRITE } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import { IovaInUse, MappingRangeError, PartialUnmap } from '../mapping-errors.ts';
import type { DomainTables } from '../paged-domain.ts';

/** Encoding of the entries of one stage: bits of the low word. */
export interface EntryEncoding {
  /** Bits of a present entry; an entry with none of them is not present. */
  readonly present: number;
  /** Bits of an entry that points to a table. */
  readonly table: number;
  /** Returns the width in bits of the IOVAs that `levels` levels of tables map. */
  width(levels: number): number;
  /** Returns the bits of a 4 KiB leaf. @throws MappingRangeError for permissions that the stage cannot express */
  leaf(perm: number): number;
}

/** Second stage, section 9.8: R and W equal PERM_READ and PERM_WRITE. */
export const SECOND_STAGE_ENTRIES: EntryEncoding = {
  present: vtd.SL_R | vtd.SL_W,
  table: vtd.SL_R | vtd.SL_W,
  width: vtd.widthOfLevels,
  leaf: (perm) => perm,
};

/** First stage, section 9.7: user entries, in the lower half of canonical addresses. A present entry is readable. */
export const FIRST_STAGE_ENTRIES: EntryEncoding = {
  present: vtd.FS_P,
  table: vtd.FS_P | vtd.FS_RW | vtd.FS_US,
  width: (levels) => vtd.widthOfLevels(levels) - 1,
  leaf(perm) {
    if ((perm & PERM_READ) === 0)
      throw new MappingRangeError(`first-stage tables cannot refuse reads (permissions ${perm})`);
    return vtd.FS_P | vtd.FS_US | ((perm & PERM_WRITE) !== 0 ? vtd.FS_RW : 0);
  },
};

/** State of an editor beside the tables in RAM. */
export interface PageTablesState {
  /** GPA of the top-level table. */
  readonly root: number;
  /** GPA and count of present entries of each table below the root, in order of creation. */
  readonly live: readonly (readonly [table: number, entries: number])[];
  /** GPAs of tables that are unlinked and not free yet. */
  readonly retired: readonly number[];
}

interface Leaf {
  readonly iova: number;
  readonly level: number;
}

/** Maps and unmaps ranges in the page tables of one domain. */
export class PageTableEditor implements DomainTables<PageTablesState> {
  /** GPA of the top-level table. */
  readonly root: number;
  readonly #ram: GuestRam;
  readonly #pages: PageAllocator;
  readonly #levels: number;
  readonly #largestLeaf: number;
  readonly #encoding: EntryEncoding;
  /** Count of present entries of each table below the root, by GPA. */
  readonly #live = new Map<number, number>();
  #retired: number[] = [];

  /**
   * @param levels 3 or 4
   * @param largestLeaf level of the largest leaf: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB
   * @param saved tables that are in guest RAM already
   */
  constructor(
    ram: GuestRam,
    pages: PageAllocator,
    levels: number,
    largestLeaf: number,
    encoding: EntryEncoding,
    saved?: PageTablesState,
  ) {
    this.#encoding = encoding;
    this.#ram = ram;
    this.#pages = pages;
    this.#levels = levels;
    this.#largestLeaf = largestLeaf;
    this.root = saved?.root ?? pages.allocate();
    for (const [table, entries] of saved?.live ?? []) this.#live.set(table, entries);
    this.#retired.push(...(saved?.retired ?? []));
  }

  /**
   * Returns the state of the editor. The counts could be read from RAM, but not their order, which decides the order
   * in which pages become free. A walk of all entries would also lengthen the VM's pause.
   */
  save(): PageTablesState {
    return { root: this.root, live: [...this.#live], retired: [...this.#retired] };
  }

  /**
   * Maps [iova, iova + size) to [gpa, gpa + size) with the largest leaves that alignment allows. If it throws,
   * nothing of the range stays mapped.
   * @throws MappingRangeError, IovaInUse, PageAllocatorExhausted
   */
  map(iova: number, gpa: number, size: number, perm: number): void {
    this.#checkRange(iova, size);
    if (!(gpa >= 0) || gpa % PAGE_SIZE !== 0)
      throw new MappingRangeError(`GPA ${hex(gpa)} is not the address of a page`);
    const bits = this.#encoding.leaf(perm);
    const taken = this.#firstLeaf(iova, iova + size);
    if (taken) throw new IovaInUse(taken.iova);
    let done = 0;
    try {
      while (done < size) {
        const level = this.#leafLevel(iova + done, gpa + done, size - done);
        this.#setLeaf(iova + done, gpa + done, level, bits);
        done += vtd.spanOfLevel(level);
      }
    } catch (error) {
      if (done > 0) this.unmap(iova, done);
      throw error;
    }
  }

  /**
   * Removes all mappings in the range and skips holes. Unlinks and retires tables that become empty.
   * @returns count of bytes that were mapped
   * @throws MappingRangeError, PartialUnmap
   */
  unmap(iova: number, size: number): number {
    this.#checkRange(iova, size);
    const end = iova + size;
    const leaves: Leaf[] = [];
    this.#visitLeaves(this.root, this.#levels, 0, iova, end, (leaf) => {
      const span = vtd.spanOfLevel(leaf.level);
      if (leaf.iova < iova || leaf.iova + span > end) throw new PartialUnmap(leaf.iova, span);
      leaves.push(leaf);
    });
    let bytes = 0;
    for (const leaf of leaves) {
      this.#clearLeaf(leaf);
      bytes += vtd.spanOfLevel(leaf.level);
    }
    return bytes;
  }

  /** Returns the retired tables. They may be freed after an invalidation that started after this call. */
  takeRetired(): number[] {
    const retired = this.#retired;
    this.#retired = [];
    return retired;
  }

  /** Returns all tables, the root included, of a domain that no device uses any more. */
  dismantle(): number[] {
    const tables = [this.root, ...this.#live.keys(), ...this.takeRetired()];
    this.#live.clear();
    return tables;
  }

  #checkRange(iova: number, size: number): void {
    const limit = 2 ** this.#encoding.width(this.#levels);
    const aligned = iova % PAGE_SIZE === 0 && size % PAGE_SIZE === 0;
    if (!aligned || !(iova >= 0) || !(size > 0) || iova + size > limit)
      throw new MappingRangeError(
        `IOVA ${hex(Math.max(0, iova))} +${size} is not a page range below ${hex(limit)}`,
      );
  }

  #leafLevel(iova: number, gpa: number, left: number): number {
    let level = this.#largestLeaf;
    for (; level > 1; level--) {
      const span = vtd.spanOfLevel(level);
      if (iova % span === 0 && gpa % span === 0 && left >= span) break;
    }
    return level;
  }

  #setLeaf(iova: number, gpa: number, level: number, bits: number): void {
    let table = this.root;
    for (let at = this.#levels; at > level; at--) {
      const entry = entryOf(table, iova, at);
      let next = this.#target(entry);
      if (next === undefined) {
        next = this.#pages.allocate();
        this.#live.set(next, 0);
        this.#write(entry, next, this.#encoding.table);
        this.#count(table, 1);
      }
      table = next;
    }
    this.#write(entryOf(table, iova, level), gpa, bits | (level > 1 ? vtd.SL_PS : 0));
    this.#count(table, 1);
  }

  #clearLeaf({ iova, level }: Leaf): void {
    const path: number[] = [this.root];
    for (let at = this.#levels; at > level; at--)
      path.push(this.#target(entryOf(path.at(-1) as number, iova, at)) as number);
    for (let at = level; at <= this.#levels; at++) {
      const table = path[this.#levels - at] as number;
      this.#clear(entryOf(table, iova, at));
      if (this.#count(table, -1) > 0 || table === this.root) return;
      this.#live.delete(table);
      this.#retired.push(table);
    }
  }

  #firstLeaf(start: number, end: number): Leaf | undefined {
    let first: Leaf | undefined;
    this.#visitLeaves(this.root, this.#levels, 0, start, end, (leaf) => {
      first ??= leaf;
    });
    return first;
  }

  #visitLeaves(
    table: number,
    level: number,
    base: number,
    start: number,
    end: number,
    visit: (leaf: Leaf) => void,
  ): void {
    const span = vtd.spanOfLevel(level);
    const first = Math.max(0, Math.floor((start - base) / span));
    const last = Math.min(vtd.SL_ENTRIES, Math.ceil((end - base) / span));
    for (let i = first; i < last; i++) {
      const entry = table + i * vtd.SL_ENTRY_BYTES;
      const low = this.#ram.read32(entry);
      if ((low & this.#encoding.present) === 0) continue;
      const iova = base + i * span;
      if (level === 1 || (low & vtd.SL_PS) !== 0) visit({ iova, level });
      else this.#visitLeaves(this.#target(entry) as number, level - 1, iova, start, end, visit);
    }
  }

  #count(table: number, by: number): number {
    const count = (this.#live.get(table) ?? 0) + by;
    if (table !== this.root) this.#live.set(table, count);
    return count;
  }

  #target(entry: number): number | undefined {
    const low = this.#ram.read32(entry);
    if ((low & this.#encoding.present) === 0) return undefined;
    return this.#ram.read32(entry + 4) * 2 ** 32 + (low - (low % PAGE_SIZE));
  }

  /** Writes the word with the present bits last, so that hardware never sees half an entry as present. */
  #write(entry: number, gpa: number, bits: number): void {
    this.#ram.write32(entry + 4, Math.floor(gpa / 2 ** 32));
    this.#ram.write32(entry, (gpa % 2 ** 32) + bits);
  }

  /** Clears the word with the present bits first, for the same reason. */
  #clear(entry: number): void {
    this.#ram.write32(entry, 0);
    this.#ram.write32(entry + 4, 0);
  }
}

const entryOf = (table: number, iova: number, level: number): number =>
  table + (Math.floor(iova / vtd.spanOfLevel(level)) % vtd.SL_ENTRIES) * vtd.SL_ENTRY_BYTES;
