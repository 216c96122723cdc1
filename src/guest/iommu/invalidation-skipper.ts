/**
 * Fault injection in a driver (`--inject skip-invalidation`): decides which invalidations are left out. It proves that the
 * verifier detects a missing one.
 */
import type { UnmapRange } from './guest-iommu.ts';

/** Count of invalidations before the first skipped one, so that the VM is under load by then. */
const INVALIDATIONS_BEFORE = 40;

/** Progress towards the first skipped invalidation. */
export interface SkipperState {
  readonly made: number;
  readonly mapped: readonly string[];
}

/** Lets every invalidation after a map through, but after a while none after an unmap. */
export class InvalidationSkipper {
  #made: number;
  /** Domain and first IOVA of mapped ranges: a range is submitted once for map and once for unmap. */
  readonly #mapped: Set<string>;

  constructor(saved?: SkipperState) {
    this.#made = saved?.made ?? 0;
    this.#mapped = new Set(saved?.mapped);
  }

  /** Returns true if the invalidation of these ranges is to be left out. */
  skips(domainId: number, ranges: readonly UnmapRange[]): boolean {
    const key = `${domainId}:${ranges[0]?.iova}`;
    const isUnmap = this.#mapped.delete(key);
    if (!isUnmap) this.#mapped.add(key);
    if (isUnmap && this.#made >= INVALIDATIONS_BEFORE) return true;
    this.#made++;
    return false;
  }

  save(): SkipperState {
    return { made: this.#made, mapped: [...this.#mapped] };
  }
}
