/**
 * One domain of a virtio-iommu: its mappings in ascending order, and the endpoints attached to it.
 *
 * Addresses have 64 bits and ends are inclusive, so that a mapping can include the last byte. Containers hold mappings
 * only below IOVA_LIMIT.
 */

import { type Gpa, type Iova, PERM_RW } from '../../memory/address.ts';
import { BTree } from '../../memory/btree.ts';
import {
  IOVA_LIMIT,
  type Translation,
  type TranslationSource,
  type TranslationVisitor,
} from '../notifier.ts';

/** Mappings of all domains of one virtio-iommu. A MAP above it is NOMEM. */
export const MAPPING_LIMIT = 2 ** 18;

export interface DomainMapping {
  readonly start: bigint;
  /** Last byte. */
  readonly end: bigint;
  readonly phys: bigint;
  /** MAP_F_*; the low two are PERM_READ and PERM_WRITE. */
  readonly flags: number;
}

/** A range from its first to its last byte. */
export interface WideRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** Counts for all domains of a unit. */
export interface WorkMeter {
  /** Mappings visited. The unit uses it to decide when its queue yields. */
  work: number;
  /** Mappings that the domains hold. */
  mappings: number;
}

/** Return value that ends the visit of a range. */
const STOP = { break: true };

const compare = (a: bigint, b: bigint): number => (a < b ? -1 : a > b ? 1 : 0);

export class Domain implements TranslationSource {
  readonly id: number;
  /** A bypass domain has no mappings. Its endpoints see system memory. */
  readonly bypass: boolean;
  /** Ids of the attached endpoints. */
  readonly endpoints = new Set<number>();
  readonly #mappings = new BTree<bigint, DomainMapping>(undefined, compare);
  readonly #meter: WorkMeter;

  constructor(id: number, bypass: boolean, meter: WorkMeter) {
    this.id = id;
    this.bypass = bypass;
    this.#meter = meter;
  }

  get size(): number {
    return this.#mappings.size;
  }

  /** Every mapping in ascending order. */
  mappings(): IterableIterator<DomainMapping> {
    return this.#mappings.values();
  }

  /** Returns the mapping that covers `iova`. */
  at(iova: bigint): DomainMapping | undefined {
    const below = this.#mappings.getPairOrNextLower(iova)?.[1];
    return below && below.end >= iova ? below : undefined;
  }

  /** True if any mapping shares a byte with the range. */
  overlaps({ start, end }: WideRange): boolean {
    const last = this.#mappings.getPairOrNextLower(end)?.[1];
    return last !== undefined && last.end >= start;
  }

  /** Returns the mappings that share a byte with the range, in ascending order. */
  within({ start, end }: WideRange): DomainMapping[] {
    const found: DomainMapping[] = [];
    this.#forEach(start, end, (mapping) => {
      found.push(mapping);
    });
    return found;
  }

  /** Adds a mapping. It must not overlap another one. */
  add(mapping: DomainMapping): void {
    if (this.#mappings.set(mapping.start, mapping)) this.#meter.mappings++;
  }

  remove(mapping: DomainMapping): void {
    if (this.#mappings.delete(mapping.start)) this.#meter.mappings--;
  }

  walk(start: number, end: number, visit: TranslationVisitor): void {
    if (end <= start) return;
    this.#forEach(BigInt(start), BigInt(end) - 1n, (mapping) => {
      const seen = visible(mapping);
      return !seen || visit(seen.iova, seen.gpa, seen.size, seen.perm) !== false;
    });
  }

  /** Visits the mappings that share a byte with the range, until `visit` returns false. */
  #forEach(start: bigint, end: bigint, visit: (mapping: DomainMapping) => boolean | undefined): void {
    const first = this.at(start);
    this.#mappings.forRange(first?.start ?? start, end, true, (_start, mapping) => {
      this.#meter.work++;
      return visit(mapping) === false ? STOP : undefined;
    });
  }

  leafAt(iova: number): Translation | undefined {
    if (iova < 0) return undefined;
    const mapping = this.at(BigInt(iova));
    return mapping && visible(mapping);
  }
}

/** Returns the part of a mapping below IOVA_LIMIT, or undefined if there is no such part or no permission. */
function visible({ start, end, phys, flags }: DomainMapping): Translation | undefined {
  const perm = flags & PERM_RW;
  if (perm === 0 || start >= IOVA_LIMIT) return undefined;
  const size = Math.min(Number(end) + 1, IOVA_LIMIT) - Number(start);
  return { iova: Number(start) as Iova, gpa: Number(phys) as Gpa, size, perm };
}
