/**
 * VT-d driver that leaves out invalidations.
 */
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import type { UnmapRange } from '../guest-iommu.ts';
import { InvalidationSkipper, type SkipperState } from '../invalidation-skipper.ts';
import { type VtdDomain, VtdDriver, type VtdDriverState } from './driver.ts';

/** State of the driver, with the progress towards the first skipped invalidation. */
export type SkippingVtdState = VtdDriverState & SkipperState;

/** Invalidates after every map, but after a while no longer after an unmap. */
export class SkippingVtdDriver extends VtdDriver {
  #skipper = new InvalidationSkipper();

  static override restore(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SkippingVtdState,
  ): SkippingVtdDriver {
    const driver = new SkippingVtdDriver(port, ram, pages, saved.options, saved);
    driver.#skipper = new InvalidationSkipper(saved);
    return driver;
  }

  override save(): SkippingVtdState {
    return { ...super.save(), ...this.#skipper.save() };
  }

  protected override async submitInvalidation(
    domain: VtdDomain,
    ranges: readonly UnmapRange[],
  ): Promise<void> {
    if (!this.#skipper.skips(domain.id, ranges)) await super.submitInvalidation(domain, ranges);
  }
}
