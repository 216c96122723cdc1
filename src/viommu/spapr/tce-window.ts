/**
 * One DMA window: a range of bus addresses with one TCE per IOMMU page. The table belongs to the hypervisor, not to
 * guest RAM; it is sparse, so that a window of 2^31 entries costs what its entries other than 0 cost.
 */

import { TCE_PERM } from '../../abi/spapr.ts';
import type { Gpa, Iova } from '../../memory/address.ts';
import { BTree } from '../../memory/btree.ts';
import type { RamRegion } from '../../memory/guest-ram.ts';
import type { Translation } from '../notifier.ts';

/** TCEs other than 0 that all windows of a unit hold at most: four full default windows. */
export const LIVE_TCE_LIMIT = 2 ** 20;

/** How many TCEs a unit holds and may hold. */
export class TceBudget {
  readonly limit: number;
  live = 0;

  constructor(limit: number = LIVE_TCE_LIMIT) {
    this.limit = limit;
  }
}

export interface WindowShape {
  readonly liobn: number;
  /** First bus address; a multiple of 4 KiB, float64 also beyond 2^53. */
  readonly start: number;
  readonly pageShift: number;
  /** Number of TCEs. */
  readonly entries: number;
  /** True for the window that is there at boot. */
  readonly isDefault: boolean;
}

/** The TCE `raw` as the device sees it: the page it means and its permissions. */
interface DecodedTce {
  readonly page: number;
  readonly perm: number;
}

export class TceWindow {
  readonly liobn: number;
  readonly start: number;
  readonly end: number;
  readonly pageShift: number;
  readonly pageSize: number;
  readonly entries: number;
  readonly isDefault: boolean;
  readonly #budget: TceBudget;
  readonly #tces = new BTree<number, bigint>();

  constructor(shape: WindowShape, budget: TceBudget) {
    this.liobn = shape.liobn;
    this.start = shape.start;
    this.pageShift = shape.pageShift;
    this.pageSize = 2 ** shape.pageShift;
    this.entries = shape.entries;
    this.end = shape.start + shape.entries * this.pageSize;
    this.isDefault = shape.isDefault;
    this.#budget = budget;
  }

  /** TCEs other than 0. */
  get live(): number {
    return this.#tces.size;
  }

  /** The TCEs other than 0 with their index, ascending. */
  tces(): Iterable<readonly [index: number, raw: bigint]> {
    return this.#tces.entries();
  }

  /** Index of the TCE of a bus address, whose low bits are ignored; undefined if the window does not cover it. */
  indexOf(ioba: bigint): number | undefined {
    const index = (ioba - BigInt(this.start)) >> BigInt(this.pageShift);
    return index >= 0n && index < BigInt(this.entries) ? Number(index) : undefined;
  }

  covers(iova: number): boolean {
    return iova >= this.start && iova < this.end;
  }

  /** Bus address of an entry; of `entries`, the window's end. */
  addressOf(index: number): number {
    return this.start + index * this.pageSize;
  }

  /** The TCE as it was put, 0n if none was. */
  get(index: number): bigint {
    return this.#tces.get(index) ?? 0n;
  }

  /** Stores a TCE. The caller has made sure of {@link roomFor} it. */
  set(index: number, raw: bigint): void {
    if (raw === 0n) this.#budget.live -= this.#tces.delete(index) ? 1 : 0;
    else this.#budget.live += this.#tces.set(index, raw) ? 1 : 0;
  }

  /** True if `count` entries from `first` on could all become other than 0. */
  roomFor(first: number, count: number): boolean {
    const free = this.#budget.limit - this.#budget.live;
    return count <= free || count - this.#liveIn(first, count) <= free;
  }

  /** Sets `count` entries from `first` on to 0: as much work as there are entries other than 0. */
  clear(first: number, count: number): void {
    this.#budget.live -= this.#tces.deleteRange(first, first + count, false);
  }

  /** Drops every entry: the window is gone, or new. */
  clearAll(): void {
    this.#budget.live -= this.#tces.size;
    this.#tces.clear();
  }

  /** The translation of one entry, cut to the RAM that is there; undefined without permission or RAM. */
  translationOf(index: number, ram: readonly RamRegion[]): Translation | undefined {
    const raw = this.#tces.get(index);
    return raw === undefined ? undefined : this.#translation(index, raw, ram);
  }

  /** Visits the translations of all entries that intersect [start, end) in ascending order; false ends the walk. */
  walk(
    start: number,
    end: number,
    ram: readonly RamRegion[],
    visit: (translation: Translation) => boolean,
  ): boolean {
    const first = Math.max(0, Math.floor((start - this.start) / this.pageSize));
    const last = Math.min(this.entries, Math.ceil((end - this.start) / this.pageSize));
    for (let pair = this.#tces.getPairOrNextHigher(first); pair && pair[0] < last; ) {
      const translation = this.#translation(pair[0], pair[1], ram);
      if (translation && !visit(translation)) return false;
      pair = this.#tces.nextHigherPair(pair[0]);
    }
    return true;
  }

  #translation(index: number, raw: bigint, ram: readonly RamRegion[]): Translation | undefined {
    const { page, perm } = decodeTce(raw, this.pageShift);
    if (perm === 0) return undefined;
    const region = ram.find(({ gpa, size }) => page < gpa + size && page + this.pageSize > gpa);
    if (!region) return undefined;
    const from = Math.max(page, region.gpa);
    const to = Math.min(page + this.pageSize, region.gpa + region.size);
    const iova = (this.addressOf(index) + (from - page)) as Iova;
    return { iova, gpa: from as Gpa, size: to - from, perm };
  }

  /** Entries other than 0 in a range. */
  #liveIn(first: number, count: number): number {
    return this.#tces.forRange(first, first + count, false);
  }
}

/** LoPAR "TCE Definition": the page is what is left above the page's offset, the low two bits are permissions. */
export function decodeTce(raw: bigint, pageShift: number): DecodedTce {
  const shift = BigInt(pageShift);
  return { page: Number((raw >> shift) << shift), perm: Number(raw & TCE_PERM) };
}
