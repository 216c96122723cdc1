/**
 * Editor of a guest's AMD-Vi page tables in guest RAM (specification section 2.2.3).
 *
 * As Linux does, it maps with the largest power of two that alignment allows, also between the default sizes: such a page
 * is encoded in its address, and its entry is repeated.
 */

import * as amdvi from '../../../abi/amdvi.ts';
import { hex, PAGE_1G, PAGE_SIZE, PERM_RW } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import { IovaInUse, MappingRangeError, PartialUnmap } from '../mapping-errors.ts';
import type { DomainTables } from '../paged-domain.ts';

/** State of an editor beside the tables in RAM. */
export interface AmdTablesState {
  /** GPA of the top-level table. */
  readonly root: number;
  /** GPA and count of present entries of each table below the root, in order of creation. */
  readonly live: readonly (readonly [table: number, entries: number])[];
  /** GPAs of tables that are unlinked and not free yet. */
  readonly retired: readonly number[];
}

/** A present leaf entry: the IOVA of its own span, and its page. */
interface Leaf {
  readonly entry: number;
  readonly iova: number;
  readonly level: number;
  /** Bytes of the page, of which the entry translates one span. */
  readonly size: number;
}

/** Maps and unmaps ranges in the page tables of one domain. */
export class AmdPageTableEditor implements DomainTables<AmdTablesState> {
  readonly root: number;
  readonly #ram: GuestRam;
  readonly #pages: PageAllocator;
  readonly #levels: number;
  /** Count of present entries of each table below the root, by GPA. */
  readonly #live = new Map<number, number>();
  #retired: number[] = [];

  /** @param saved tables that are in guest RAM already */
  constructor(ram: GuestRam, pages: PageAllocator, levels: number, saved?: AmdTablesState) {
    this.#ram = ram;
    this.#pages = pages;
    this.#levels = levels;
    this.root = saved?.root ?? pages.allocate();
    for (const [table, entries] of saved?.live ?? []) this.#live.set(table, entries);
    this.#retired.push(...(saved?.retired ?? []));
  }

  /** Returns the state of the editor, with the order of tables, which decides the order in which pages become free. */
  save(): AmdTablesState {
    return { root: this.root, live: [...this.#live], retired: [...this.#retired] };
  }

  map(iova: number, gpa: number, size: number, perm: number): void {
    this.#checkRange(iova, size);
    if (!(gpa >= 0) || gpa % PAGE_SIZE !== 0)
      throw new MappingRangeError(`GPA ${hex(gpa)} is not the address of a page`);
    if ((perm & PERM_RW) === 0) throw new MappingRangeError('a mapping without read and write permission');
    this.#visitLeaves(this.root, this.#levels, 0, iova, iova + size, (leaf) => {
      throw new IovaInUse(leaf.iova);
    });
    let done = 0;
    try {
      while (done < size) {
        const page = pageSize(iova + done, gpa + done, size - done);
        this.#setPage(iova + done, gpa + done, page, perm);
        done += page;
      }
    } catch (error) {
      this.#clearRange(iova, iova + size);
      throw error;
    }
  }

  unmap(iova: number, size: number): number {
    this.#checkRange(iova, size);
    const end = iova + size;
    const cut: Leaf[] = [];
    this.#visitLeaves(this.root, this.#levels, 0, iova, end, (leaf) => {
      const span = amdvi.spanOfLevel(leaf.level);
      if (leaf.iova < iova || leaf.iova + span > end) throw new PartialUnmap(leaf.iova, span);
      const page = leaf.iova - (leaf.iova % leaf.size);
      if (page < iova || page + leaf.size > end) cut.push(leaf);
    });
    for (const leaf of cut) this.#split(leaf);
    return this.#clearRange(iova, end);
  }

  takeRetired(): number[] {
    const retired = this.#retired;
    this.#retired = [];
    return retired;
  }

  dismantle(): number[] {
    const tables = [this.root, ...this.#live.keys(), ...this.takeRetired()];
    this.#live.clear();
    return tables;
  }

  #checkRange(iova: number, size: number): void {
    const limit = 2 ** amdvi.widthOfLevels(this.#levels);
    const aligned = iova % PAGE_SIZE === 0 && size % PAGE_SIZE === 0;
    if (!aligned || !(iova >= 0) || !(size > 0) || iova + size > limit)
      throw new MappingRangeError(
        `IOVA ${hex(Math.max(0, iova))} +${size} is not a page range below ${hex(limit)}`,
      );
  }

  /** Writes the entries of one page: one of a default size, several of an encoded one. */
  #setPage(iova: number, gpa: number, size: number, perm: number): void {
    const level = levelOf(size);
    const span = amdvi.spanOfLevel(level);
    const table = this.#tableAt(iova, level);
    const encoded = size > span;
    const address = encoded ? gpa + size / 2 - PAGE_SIZE : gpa;
    const next = encoded ? amdvi.NEXT_LEVEL_SIZED : amdvi.NEXT_LEVEL_PAGE;
    const count = size / span;
    for (let i = 0; i < count; i++) this.#write(entryOf(table, iova + i * span, level), address, next, perm);
    this.#count(table, count);
  }

  /** Returns the table at `level` for `iova`; creates those on the way. */
  #tableAt(iova: number, level: number): number {
    let table = this.root;
    for (let at = this.#levels; at > level; at--) {
      const entry = entryOf(table, iova, at);
      let next = this.#target(entry);
      if (next === undefined) {
        next = this.#pages.allocate();
        this.#live.set(next, 0);
        this.#write(entry, next, at - 1, PERM_RW);
        this.#count(table, 1);
      }
      table = next;
    }
    return table;
  }

  /** Replaces the other entries of an encoded page by ones of the default size, each with the same translation. */
  #split({ entry, iova, level, size }: Leaf): void {
    const span = amdvi.spanOfLevel(level);
    const first = iova - (iova % size);
    const [low, high] = [this.#ram.read32(entry), this.#ram.read32(entry + 4)];
    if (((low >>> amdvi.NEXT_LEVEL_SHIFT) & amdvi.NEXT_LEVEL_MASK) !== amdvi.NEXT_LEVEL_SIZED) return;
    const encoded = (high & amdvi.HIGH_ADDRESS) * 2 ** 32 + (low - (low % PAGE_SIZE));
    const gpa = encoded - (encoded % size);
    const perm = (high >>> amdvi.PERM_SHIFT) & PERM_RW;
    const table = entry - (entry % PAGE_SIZE);
    for (let at = 0; at < size; at += span)
      this.#write(entryOf(table, first + at, level), gpa + at, amdvi.NEXT_LEVEL_PAGE, perm);
  }

  /** Clears every leaf in the range, and unlinks and retires the tables that become empty. */
  #clearRange(start: number, end: number): number {
    const leaves: Leaf[] = [];
    this.#visitLeaves(this.root, this.#levels, 0, start, end, (leaf) => {
      leaves.push(leaf);
    });
    let bytes = 0;
    for (const leaf of leaves) {
      this.#clearLeaf(leaf);
      bytes += amdvi.spanOfLevel(leaf.level);
    }
    return bytes;
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

  #visitLeaves(
    table: number,
    level: number,
    base: number,
    start: number,
    end: number,
    visit: (leaf: Leaf) => void,
  ): void {
    const span = amdvi.spanOfLevel(level);
    const first = Math.max(0, Math.floor((start - base) / span));
    const last = Math.min(amdvi.PTES, Math.ceil((end - base) / span));
    for (let i = first; i < last; i++) {
      const entry = table + i * amdvi.PTE_BYTES;
      const low = this.#ram.read32(entry);
      if ((low & amdvi.PTE_PR) === 0) continue;
      const iova = base + i * span;
      const next = (low >>> amdvi.NEXT_LEVEL_SHIFT) & amdvi.NEXT_LEVEL_MASK;
      if (next === amdvi.NEXT_LEVEL_PAGE) visit({ entry, iova, level, size: span });
      else if (next === amdvi.NEXT_LEVEL_SIZED) visit({ entry, iova, level, size: this.#encodedSize(entry) });
      else this.#visitLeaves(this.#target(entry) as number, next, iova, start, end, visit);
    }
  }

  #encodedSize(entry: number): number {
    let page =
      (this.#ram.read32(entry + 4) & amdvi.HIGH_ADDRESS) * 2 ** 20 + (this.#ram.read32(entry) >>> 12);
    let size = 2 * PAGE_SIZE;
    for (; page % 2 === 1; page = Math.floor(page / 2)) size *= 2;
    return size;
  }

  #count(table: number, by: number): number {
    const count = (this.#live.get(table) ?? 0) + by;
    if (table !== this.root) this.#live.set(table, count);
    return count;
  }

  #target(entry: number): number | undefined {
    const low = this.#ram.read32(entry);
    if ((low & amdvi.PTE_PR) === 0) return undefined;
    return (this.#ram.read32(entry + 4) & amdvi.HIGH_ADDRESS) * 2 ** 32 + (low - (low % PAGE_SIZE));
  }

  /** Writes the word with PR last, so that hardware never sees half an entry as present. */
  #write(entry: number, gpa: number, next: number, perm: number): void {
    this.#ram.write32(entry + 4, Math.floor(gpa / 2 ** 32) + ((perm << amdvi.PERM_SHIFT) >>> 0));
    this.#ram.write32(entry, (gpa % 2 ** 32) + (next << amdvi.NEXT_LEVEL_SHIFT) + amdvi.PTE_PR);
  }

  /** Clears the word with PR first, for the same reason. */
  #clear(entry: number): void {
    this.#ram.write32(entry, 0);
    this.#ram.write32(entry + 4, 0);
  }
}

const entryOf = (table: number, iova: number, level: number): number =>
  table + (Math.floor(iova / amdvi.spanOfLevel(level)) % amdvi.PTES) * amdvi.PTE_BYTES;

/** Returns the largest power of two, up to 1 GiB, to which both addresses are aligned and which fits. */
function pageSize(iova: number, gpa: number, left: number): number {
  let size = PAGE_SIZE;
  while (size < PAGE_1G && iova % (2 * size) === 0 && gpa % (2 * size) === 0 && left >= 2 * size) size *= 2;
  return size;
}

/** Returns the level of the entries of a page: the highest whose default size is not larger. */
function levelOf(size: number): number {
  let level = 1;
  while (amdvi.spanOfLevel(level + 1) <= size) level++;
  return level;
}
