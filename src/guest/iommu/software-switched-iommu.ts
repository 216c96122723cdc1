/**
 * Translation switch in software, for drivers of hardware without one: keeps the attachments, and whether they are in
 * effect.
 */

import { InFlight } from '../in-flight.ts';
import { Mutex } from '../mutex.ts';
import type { GuestDomain, GuestFault, GuestIommu, GuestIommuCapabilities } from './guest-iommu.ts';

/** The view of a device while translation is enabled: a domain, system memory, or nothing. */
export type DeviceView<Domain> = Domain | 'system' | 'nothing';

/** Thrown when a script passes a domain of another driver. */
class ForeignDomainError extends TypeError {
  override name = 'ForeignDomainError';
}

/** A saved view; a domain by its ID. */
export type SavedView = number | 'system' | 'nothing';

/** The attachments, and whether they are in effect. */
export interface SwitchedState {
  readonly enabled: boolean;
  readonly views: readonly (readonly [requesterId: number, view: SavedView])[];
}

/** Returns a view as it is saved. */
export const savedView = (view: DeviceView<GuestDomain>): SavedView =>
  typeof view === 'object' ? view.id : view;

/** Keeps the attachments of a driver. Changes run one at a time; the subclass applies each to the hardware. */
export abstract class SoftwareSwitchedIommu<Domain extends GuestDomain> implements GuestIommu {
  abstract readonly capabilities: GuestIommuCapabilities;
  readonly #views = new Map<number, DeviceView<Domain>>();
  readonly #changes = new Mutex();
  /** Calls in flight of the driver and its domains. */
  protected readonly inFlight: InFlight = new InFlight();
  #enabled = false;

  abstract createDomain(): Domain;
  abstract domain(id: number): Domain | undefined;
  abstract save(): unknown;
  abstract readFaults(): Promise<GuestFault | undefined>;

  /** @throws ForeignDomainError for a domain of another driver */
  async attach(requesterId: number, domain: GuestDomain): Promise<void> {
    if (!this.isOwn(domain)) throw new ForeignDomainError('the domain belongs to another driver');
    await this.#change(requesterId, domain);
  }

  setPassThrough(requesterId: number): Promise<void> {
    return this.#change(requesterId, 'system');
  }

  detach(requesterId: number): Promise<void> {
    return this.#change(requesterId, 'nothing');
  }

  enableTranslation(): Promise<void> {
    return this.#run('enableTranslation', async () => {
      if (this.#enabled) return;
      await this.showViews(this.#views);
      this.#enabled = true;
    });
  }

  disableTranslation(): Promise<void> {
    return this.#run('disableTranslation', async () => {
      if (!this.#enabled) return;
      await this.showSystem(this.#views);
      this.#enabled = false;
    });
  }

  protected abstract isOwn(domain: GuestDomain): domain is Domain;

  /** Applies the view of one device while translation is enabled. */
  protected abstract show(requesterId: number, view: DeviceView<Domain>): Promise<void>;

  /** Enables translation: each device sees its view from now on; a device without a view sees nothing. */
  protected abstract showViews(views: ReadonlyMap<number, DeviceView<Domain>>): Promise<void>;

  /** Disables translation: every device sees system memory. */
  protected abstract showSystem(views: ReadonlyMap<number, DeviceView<Domain>>): Promise<void>;

  /** Returns the attachments. @throws InFlightError */
  protected saveViews(): SwitchedState {
    this.inFlight.expectNone('the guest driver for the vIOMMU');
    return {
      enabled: this.#enabled,
      views: [...this.#views].map(([requesterId, view]) => [requesterId, savedView(view)]),
    };
  }

  /** Restores the attachments of {@link saveViews}. The domains and the hardware must be restored already. */
  protected restoreViews({ enabled, views }: SwitchedState): void {
    this.#enabled = enabled;
    for (const [requesterId, view] of views) this.#views.set(requesterId, this.viewOf(view));
  }

  /** Returns a saved view. @throws RangeError for an unknown domain */
  protected viewOf(saved: SavedView): DeviceView<Domain> {
    if (typeof saved === 'string') return saved;
    const domain = this.domain(saved);
    if (!domain) throw new RangeError(`a saved attachment names domain ${saved}, which does not exist`);
    return domain;
  }

  #run(what: string, work: () => Promise<void>): Promise<void> {
    return this.inFlight.run(what, () => this.#changes.run(work));
  }

  #change(requesterId: number, view: DeviceView<Domain>): Promise<void> {
    return this.#run('attach', async () => {
      if (this.#enabled) await this.show(requesterId, view);
      this.#views.set(requesterId, view);
    });
  }
}
