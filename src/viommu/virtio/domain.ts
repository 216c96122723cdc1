/**
 * One domain of a virtio-iommu: its mappings in order of address, and the endpoints that use them.
 *
 * Addresses are 64 bits wide here, ends inclusive, so that a mapping can reach the last byte. What devices are shown
 * ends at IOVA_LIMIT.
 */

import { type Gpa, type Iova, PERM_RW } from '../../memory/address.ts';
import { BTree } from '../../memory/btree.ts';
import { IOVA_LIMIT } from '../address-space.ts';
import type { Translation, TranslationSource, TranslationVisitor } from '../notifier.ts';

/** Mappings of all domains of one virtio-iommu; a MAP beyond is NOMEM. */
export const MAPPING_LIMIT = 2 ** 18;

export interface DomainMapping {
  readonly start: bigint;
  /** Last byte. */
  readonly end: bigint;
  readonly phys: bigint;
  /** MAP_F_*; the low two are PERM_READ and PERM_WRITE. */
  readonly flags: number;
}

/** A range as first and last byte. */
export interface WideRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** Counts for all domains of a unit. */
export interface WorkMeter {
  /** Mappings visited, so that who serves requests knows when to give way. */
  work: number;
  /** Mappings that the domains hold. */
  mappings: number;
}

/** Ends a range's visit. */
const STOP = { break: true };

const compare = (a: bigint, b: bigint): number => (a < b ? -1 : a > b ? 1 : 0);

export class Domain implements TranslationSource {
  readonly id: number;
  /** A bypass domain has no mappings: its endpoints see system memory. */
  readonly bypass: boolean;
  /** Ids of the endpoints that are attached. */
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

  /** The mapping that covers `iova`. */
  at(iova: bigint): DomainMapping | undefined {
    const below = this.#mappings.getPairOrNextLower(iova)?.[1];
    return below && below.end >= iova ? below : undefined;
  }

  /** True if any mapping shares a byte with the range. */
  overlaps({ start, end }: WideRange): boolean {
    const last = this.#mappings.getPairOrNextLower(end)?.[1];
    return last !== undefined && last.end >= start;
  }

  /** The mappings that share a byte with the range, in ascending order. */
  within({ start, end }: WideRange): DomainMapping[] {
    const found: DomainMapping[] = [];
    this.#forEach(start, end, (mapping) => {
      found.push(mapping);
    });
    return found;
  }

  /** Adds a mapping that overlaps none. */
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

  /** Visits the mappings that share a byte with the range until told false. */
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

/** What a device is shown of a mapping: nothing without permission, nothing at or above IOVA_LIMIT. */
function visible({ start, end, phys, flags }: DomainMapping): Translation | undefined {
  const perm = flags & PERM_RW;
  if (perm === 0 || start >= IOVA_LIMIT) return undefined;
  const size = Math.min(Number(end) + 1, IOVA_LIMIT) - Number(start);
  return { iova: Number(start) as Iova, gpa: Number(phys) as Gpa, size, perm };
}
