/**
 * Fault injection in the VT-d driver (`--inject skip-invalidation`): proves that the verifier detects a missing
 * invalidation.
 */
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import type { UnmapRange } from '../guest-iommu.ts';
import { type VtdDomain, VtdDriver, type VtdDriverState } from './driver.ts';

/** Count of invalidations before the first skipped one, so that the VM is under load by then. */
const INVALIDATIONS_BEFORE = 40;

/** State of the driver, with the progress towards the first skipped invalidation. */
export interface SkippingVtdState extends VtdDriverState {
  readonly made: number;
  readonly mapped: readonly string[];
}

/** Invalidates after every map, but after a while no longer after an unmap. */
export class SkippingVtdDriver extends VtdDriver {
  #made = 0;
  /** Domain and first IOVA of mapped ranges: a range is submitted once for map and once for unmap. */
  readonly #mapped = new Set<string>();

  static override restore(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SkippingVtdState,
  ): SkippingVtdDriver {
    const driver = new SkippingVtdDriver(port, ram, pages, saved.options, saved);
    driver.#made = saved.made;
    for (const key of saved.mapped) driver.#mapped.add(key);
    return driver;
  }

  override save(): SkippingVtdState {
    return { ...super.save(), made: this.#made, mapped: [...this.#mapped] };
  }

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
