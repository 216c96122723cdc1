/**
 * A deliberately broken guest driver: it proves that the verifier can see (`--inject skip-invalidation`).
 */
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import type { UnmapRange } from '../guest-iommu.ts';
import type { VtdDomain } from './domain.ts';
import { VtdDriver, type VtdDriverState } from './driver.ts';

/** Invalidations made before the first is forgotten: the VM is then under load. */
const INVALIDATIONS_BEFORE = 40;

/** With how far it is on its way to forgetting. */
export interface ForgetfulVtdState extends VtdDriverState {
  readonly made: number;
  readonly mapped: readonly string[];
}

/** Announces what it maps, but after a while no longer invalidates what it unmaps. */
export class ForgetfulVtdDriver extends VtdDriver {
  #made = 0;
  /** Domain and first IOVA of what is mapped: the same range comes once for map and once for unmap. */
  readonly #mapped = new Set<string>();

  static override restore(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: ForgetfulVtdState,
  ): ForgetfulVtdDriver {
    const driver = new ForgetfulVtdDriver(port, ram, pages, saved.options, saved);
    driver.#made = saved.made;
    for (const key of saved.mapped) driver.#mapped.add(key);
    return driver;
  }

  override save(): ForgetfulVtdState {
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
