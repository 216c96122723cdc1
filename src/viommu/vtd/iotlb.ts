/**
 * The unit's IOTLB: leaves that translated a device's own requests, tagged with device and domain, until the
 * invalidation that names them. Specification section 6.2 and the granularities of 6.5.2.
 *
 * Faults are never kept, nor what containers hold: they are told of changes instead. Devices that have a container do
 * not come here at all.
 */
import { RID_PASID } from '../../abi/vtd.ts';
import type { Translation } from '../notifier.ts';
import type { Invalidation } from './invalidation.ts';

/** At this many entries all are forgotten, as QEMU does. */
export const IOTLB_LIMIT = 1024;

export interface IotlbCounters {
  /** Accesses that an entry served, and those that had to walk. */
  hits: number;
  misses: number;
  /** Entries dropped by invalidations. */
  invalidated: number;
}

export interface CachedLeaf extends Translation {
  readonly requesterId: number;
  readonly domainId: number;
  readonly stage: 1 | 2;
  /** A write has gone through it: in first-stage tables its D bit is set. */
  readonly written: boolean;
}

const LEAF_SIZES = [2 ** 12, 2 ** 21, 2 ** 30] as const;
/** IOVAs have 48 bits: the page's number leaves room for a requester id below 2^53. */
const PAGES_OF_A_DEVICE = 2 ** 36;

export class Iotlb {
  readonly counters: IotlbCounters = { hits: 0, misses: 0, invalidated: 0 };
  /** For each leaf size, by device and first page. */
  readonly #leaves = LEAF_SIZES.map((size) => ({ size, found: new Map<number, CachedLeaf>() }));
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The cached leaf that covers `iova`, with the permissions of the walk that found it. */
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
    // Parts of a large leaf, next to the interrupt range, have other sizes and are not kept.
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

  /** Forgets what the request names. */
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

/** Which entries a request names; undefined: it is not about the IOTLB. */
function namedBy(request: Invalidation): ((leaf: CachedLeaf) => boolean) | undefined {
  switch (request.kind) {
    case 'iotlb-global':
      return () => true;
    case 'iotlb-domain':
      return ({ domainId }) => domainId === request.domainId;
    case 'iotlb-page':
      // Names pages of second-stage translations; first-stage ones of the domain go with them.
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
