/**
 * What QEMU 11.1.3 keeps of earlier translations, as far as a guest that invalidates correctly can tell: which
 * devices' contexts are cached, and an IOTLB. Only for quirks: 'qemu'; the specification's mode caches nothing.
 */
import { FUNCTION_MASKS, RID_PASID } from '../../pci/vtd-format.ts';
import type { Translation } from '../notifier.ts';
import type { Invalidation } from './invalidation.ts';

/** At this many entries QEMU forgets them all. */
export const IOTLB_LIMIT = 1024;

interface CachedLeaf extends Translation {
  readonly requesterId: number;
  readonly domainId: number;
  readonly stage: 1 | 2;
}

export class QemuCaches {
  /** Devices whose context entry was valid at their last walk: P of their PASID entry is not looked at any more. */
  readonly #contexts = new Set<number>();
  /** Devices that passed through: QEMU puts them onto system memory until their context is invalidated. */
  readonly #passThrough = new Set<number>();
  /** By requester and by first page of the leaf's extent. */
  readonly #leaves = new Map<string, CachedLeaf>();

  hasContext(requesterId: number): boolean {
    return this.#contexts.has(requesterId);
  }

  rememberContext(requesterId: number): void {
    this.#contexts.add(requesterId);
  }

  passesThrough(requesterId: number): boolean {
    return this.#passThrough.has(requesterId);
  }

  rememberPassThrough(requesterId: number): void {
    this.#passThrough.add(requesterId);
  }

  /** The cached leaf that covers `iova`, with the permissions of the walk that found it. */
  leafAt(requesterId: number, iova: number): Translation | undefined {
    for (const size of LEAF_SIZES) {
      const leaf = this.#leaves.get(keyOf(requesterId, iova - (iova % size), size));
      if (leaf) return leaf;
    }
    return undefined;
  }

  rememberLeaf(requesterId: number, domainId: number, stage: 1 | 2, leaf: Translation): void {
    if (this.#leaves.size >= IOTLB_LIMIT) this.#leaves.clear();
    this.#leaves.set(keyOf(requesterId, leaf.iova, leaf.size), { ...leaf, requesterId, domainId, stage });
  }

  clear(): void {
    this.#contexts.clear();
    this.#passThrough.clear();
    this.#leaves.clear();
  }

  apply(request: Invalidation): void {
    switch (request.kind) {
      case 'context-global':
      case 'context-domain':
        this.#contexts.clear();
        this.#passThrough.clear();
        return;
      case 'context-device':
        this.#forgetContexts(request.requesterId, request.functionMask);
        return;
      case 'iotlb-global':
        this.#leaves.clear();
        return;
      case 'iotlb-domain':
        this.#forgetLeaves((leaf) => leaf.domainId === request.domainId);
        return;
      case 'piotlb-pasid':
        this.#forgetLeaves((leaf) => request.pasid === RID_PASID && leaf.domainId === request.domainId);
        return;
      case 'iotlb-page':
        // Names pages of second-stage translations; first-stage ones of the domain go with them.
        this.#forgetLeaves(
          (leaf) => leaf.domainId === request.domainId && (leaf.stage === 1 || overlaps(leaf, request)),
        );
        return;
      case 'piotlb-page':
        this.#forgetLeaves(
          (leaf) =>
            request.pasid === RID_PASID &&
            leaf.domainId === request.domainId &&
            leaf.stage === 1 &&
            overlaps(leaf, request),
        );
    }
  }

  #forgetContexts(requesterId: number, functionMask: number): void {
    const compared = ~(FUNCTION_MASKS[functionMask] as number);
    for (const devices of [this.#contexts, this.#passThrough])
      for (const device of devices) if (((device ^ requesterId) & compared) === 0) devices.delete(device);
  }

  #forgetLeaves(matches: (leaf: CachedLeaf) => boolean): void {
    for (const [key, leaf] of this.#leaves) if (matches(leaf)) this.#leaves.delete(key);
  }
}

const LEAF_SIZES = [2 ** 12, 2 ** 21, 2 ** 30] as const;

const keyOf = (requesterId: number, iova: number, size: number): string => `${requesterId}:${iova}:${size}`;

const overlaps = (
  { iova, size }: Translation,
  { start, end }: { readonly start: number; readonly end: number },
): boolean => iova < end && iova + size > start;
