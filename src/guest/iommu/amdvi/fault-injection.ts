/**
 * AMD-Vi driver that leaves out invalidations.
 */
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import type { UnmapRange } from '../guest-iommu.ts';
import { InvalidationSkipper, type SkipperState } from '../invalidation-skipper.ts';
import { type AmdViDomain, AmdViDriver, type AmdViDriverState } from './driver.ts';

/** State of the driver, with the progress towards the first skipped invalidation. */
export type SkippingAmdViState = AmdViDriverState & SkipperState;

/** Invalidates after every map, but after a while no longer after an unmap. */
export class SkippingAmdViDriver extends AmdViDriver {
  #skipper = new InvalidationSkipper();

  static override restore(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SkippingAmdViState,
  ): SkippingAmdViDriver {
    const driver = new SkippingAmdViDriver(port, ram, pages, [], saved.options, saved);
    driver.#skipper = new InvalidationSkipper(saved);
    return driver;
  }

  override save(): SkippingAmdViState {
    return { ...super.save(), ...this.#skipper.save() };
  }

  protected override async submitInvalidation(
    domain: AmdViDomain,
    ranges: readonly UnmapRange[],
  ): Promise<void> {
    if (!this.#skipper.skips(domain.id, ranges)) await super.submitInvalidation(domain, ranges);
  }
}
