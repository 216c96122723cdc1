/**
 * The unit's IOTLB: leaves that translated device requests, tagged with device and domain, until an invalidation
 * names them. Specification section 6.2, and the granularities of section 6.5.2.
 *
 * Faults are not cached. Devices that have a container do not use the IOTLB: map events keep the container up to date.
 */
import { RID_PASID } from '../../abi/vtd.ts';
import type { Translation } from '../notifier.ts';
import type { Invalidation } from './invalidation.ts';

/** When the IOTLB holds this many entries it is cleared, as in QEMU. */
const IOTLB_LIMIT = 1024;

export interface IotlbCounters {
  /** Accesses that a cached entry served. */
  hits: number;
  /** Accesses that needed a walk. */
  misses: number;
  /** Entries dropped by invalidations. */
  invalidated: number;
}

export interface CachedLeaf extends Translation {
  readonly requesterId: number;
  readonly domainId: number;
  readonly stage: 1 | 2;
  /** True if a write has used it: its first-stage entry then has D set. */
  readonly written: boolean;
}

const LEAF_SIZES = [2 ** 12, 2 ** 21, 2 ** 30] as const;
/** An IOVA has 48 bits. Page number and requester ID together stay below 2^53. */
const PAGES_OF_A_DEVICE = 2 ** 36;

export class Iotlb {
  readonly counters: IotlbCounters = { hits: 0, misses: 0, invalidated: 0 };
  /** Entries by leaf size, then by device and first page. */
  readonly #leaves = LEAF_SIZES.map((size) => ({ size, found: new Map<number, CachedLeaf>() }));
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Returns the cached leaf that covers `iova`, with the permissions of the walk that found it. */
  at(requesterId: number, iova: number): CachedLeaf | undefined {
    for (const { size, found } of this.#leaves) {
      const leaf = found.size > 0 ? found.get(keyOf(requesterId, iova, size)) : undefined;
      if (leaf) return leaf;
    }
    return undefined;
  }

  insert(leaf: CachedLeaf): void {
    if (this.#size >= IOTLB_LIMIT) this.clear();
    const level = this.#leaves.find(({ size }) => size === leaf.size);
    // The parts of a large leaf around the interrupt range have other sizes and are not cached.
    if (!level) return;
    const key = keyOf(leaf.requesterId, leaf.iova, leaf.size);
    if (!level.found.has(key)) this.#size++;
    level.found.set(key, leaf);
  }

  clear(): void {
    this.counters.invalidated += this.#size;
    for (const { found } of this.#leaves) found.clear();
    this.#size = 0;
  }

  /** Removes the entries that the request names. */
  invalidate(request: Invalidation): void {
    const names = namedBy(request);
    if (!names) return;
    for (const { found } of this.#leaves)
      for (const [key, leaf] of found)
        if (names(leaf)) {
          found.delete(key);
          this.#size--;
          this.counters.invalidated++;
        }
  }
}

/** Returns a test for the entries that a request names, or undefined if it does not affect the IOTLB. */
function namedBy(request: Invalidation): ((leaf: CachedLeaf) => boolean) | undefined {
  switch (request.kind) {
    case 'iotlb-global':
      return () => true;
    case 'iotlb-domain':
      return ({ domainId }) => domainId === request.domainId;
    case 'iotlb-page':
      // The request names second-stage pages and drops all first-stage translations of the domain.
      return (leaf) => leaf.domainId === request.domainId && (leaf.stage === 1 || overlaps(leaf, request));
    case 'piotlb-pasid':
      return ({ domainId }) => request.pasid === RID_PASID && domainId === request.domainId;
    case 'piotlb-page':
      return (leaf) =>
        request.pasid === RID_PASID &&
        leaf.domainId === request.domainId &&
        leaf.stage === 1 &&
        overlaps(leaf, request);
    default:
      return undefined;
  }
}

const keyOf = (requesterId: number, iova: number, size: number): number =>
  requesterId * PAGES_OF_A_DEVICE + (iova - (iova % size)) / 2 ** 12;

const overlaps = (
  { iova, size }: Translation,
  { start, end }: { readonly start: number; readonly end: number },
): boolean => iova < end && iova + size > start;
