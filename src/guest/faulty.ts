/**
 * A deliberately broken guest driver: it proves that the verifier can see (`--inject skip-invalidation`).
 */
import type { UnmapRange, VtdDomain } from './vtd-domain.ts';
import { VtdDriver } from './vtd-driver.ts';

/** Invalidations made before the first is forgotten: the VM is then under load. */
const INVALIDATIONS_BEFORE = 40;

/** Forgets the invalidations of every third map or unmap. */
export class ForgetfulVtdDriver extends VtdDriver {
  #seen = 0;

  protected override async submitInvalidation(
    domain: VtdDomain,
    ranges: readonly UnmapRange[],
  ): Promise<void> {
    this.#seen++;
    if (this.#seen > INVALIDATIONS_BEFORE && this.#seen % 3 === 0) return;
    await super.submitInvalidation(domain, ranges);
  }
}
