/**
 * A deliberately broken guest driver: it proves that the verifier can see (`--inject skip-invalidation`).
 */
import type { UnmapRange, VtdDomain } from './vtd-domain.ts';
import { VtdDriver } from './vtd-driver.ts';

/** Invalidations made before the first is forgotten: the VM is then under load. */
const INVALIDATIONS_BEFORE = 40;

/** Announces what it maps, but after a while no longer invalidates what it unmaps. */
export class ForgetfulVtdDriver extends VtdDriver {
  #made = 0;
  /** Domain and first IOVA of what is mapped: the same range comes once for map and once for unmap. */
  readonly #mapped = new Set<string>();

  protected override async submitInvalidation(
    domain: VtdDomain,
    ranges: readonly UnmapRange[],
  ): Promise<void> {
    const key = `${domain.id}:${ranges[0]?.iova}`;
    const isUnmap = this.#mapped.delete(key);
    if (!isUnmap) this.#mapped.add(key);
    if (isUnmap && this.#made >= INVALIDATIONS_BEFORE) return;
    this.#made++;
    await super.submitInvalidation(domain, ranges);
  }
}
