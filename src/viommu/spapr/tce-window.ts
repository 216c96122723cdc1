/**
 * One DMA window: a range of bus addresses with one TCE per IOMMU page. The table belongs to the hypervisor and is not
 * in guest RAM. It is sparse: a window of 2^31 TCEs needs memory only for those other than 0.
 */

import { TCE_PERM } from '../../abi/spapr.ts';
import type { Gpa, Iova } from '../../memory/address.ts';
import { BTree } from '../../memory/btree.ts';
import type { RamRegion } from '../../memory/guest-ram.ts';
import type { Translation } from '../notifier.ts';

/** Maximum TCEs other than 0 in all windows of a unit: four full default windows. */
const LIVE_TCE_LIMIT = 2 ** 20;

/** Count and limit of a unit's TCEs other than 0. */
export class TceBudget {
  readonly limit: number;
  live = 0;

  constructor(limit: number = LIVE_TCE_LIMIT) {
    this.limit = limit;
  }
}

export interface WindowShape {
  readonly liobn: number;
  /** First bus address: a multiple of 4 KiB, a float64 also above 2^53. */
  readonly start: number;
  readonly pageShift: number;
  /** Count of TCEs. */
  readonly entries: number;
  /** True for the window that exists at boot. */
  readonly isDefault: boolean;
}

/** A TCE's page and permissions. */
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

  /** Count of TCEs other than 0. */
  get live(): number {
    return this.#tces.size;
  }

  /** Returns the TCEs other than 0 with their index, ascending. */
  tces(): Iterable<readonly [index: number, raw: bigint]> {
    return this.#tces.entries();
  }

  /** Returns the TCE index of a bus address, or undefined outside the window. Low address bits are ignored. */
  indexOf(ioba: bigint): number | undefined {
    const index = (ioba - BigInt(this.start)) >> BigInt(this.pageShift);
    return index >= 0n && index < BigInt(this.entries) ? Number(index) : undefined;
  }

  covers(iova: number): boolean {
    return iova >= this.start && iova < this.end;
  }

  /** Returns the bus address of a TCE. For `entries` it is the window's end. */
  addressOf(index: number): number {
    return this.start + index * this.pageSize;
  }

  /** Returns the TCE as it was stored, initially 0n. */
  get(index: number): bigint {
    return this.#tces.get(index) ?? 0n;
  }

  /** Stores a TCE. The caller has checked {@link roomFor}. */
  set(index: number, raw: bigint): void {
    if (raw === 0n) this.#budget.live -= this.#tces.delete(index) ? 1 : 0;
    else this.#budget.live += this.#tces.set(index, raw) ? 1 : 0;
  }

  /** True if the budget allows `count` TCEs from `first` on to become other than 0. */
  roomFor(first: number, count: number): boolean {
    const free = this.#budget.limit - this.#budget.live;
    return count <= free || count - this.#liveIn(first, count) <= free;
  }

  /** Sets `count` TCEs from `first` on to 0. The cost grows only with those other than 0. */
  clear(first: number, count: number): void {
    this.#budget.live -= this.#tces.deleteRange(first, first + count, false);
  }

  /** Sets all TCEs to 0. */
  clearAll(): void {
    this.#budget.live -= this.#tces.size;
    this.#tces.clear();
  }

  /** Returns the translation of one TCE, cut to existing RAM; undefined without permission or RAM. */
  translationOf(index: number, ram: readonly RamRegion[]): Translation | undefined {
    const raw = this.#tces.get(index);
    return raw === undefined ? undefined : this.#translation(index, raw, ram);
  }

  /** Visits the translations that intersect [start, end), ascending. Returns false if `visit` ended the walk. */
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

  /** Returns the count of TCEs other than 0 in a range. */
  #liveIn(first: number, count: number): number {
    return this.#tces.forRange(first, first + count, false);
  }
}

/** Decodes a TCE (LoPAR "TCE Definition"): page address above the page offset, permissions in the low two bits. */
export function decodeTce(raw: bigint, pageShift: number): DecodedTce {
  const shift = BigInt(pageShift);
  return { page: Number((raw >> shift) << shift), perm: Number(raw & TCE_PERM) };
}
