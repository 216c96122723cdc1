/**
 * The part of a driver that hardware without a translation switch needs in software: who is attached to what, and
 * whether that counts now.
 */

import { InFlight } from '../in-flight.ts';
import { Mutex } from '../mutex.ts';
import type { GuestDomain, GuestFault, GuestIommu, GuestIommuCapabilities } from './guest-iommu.ts';

/** What a device is to see while translation is enabled. */
export type DeviceView<Domain> = Domain | 'system' | 'nothing';

/** Thrown when a script hands a driver something that is not its own. */
class ForeignDomainError extends TypeError {
  override name = 'ForeignDomainError';
}

/** A device's view as it is saved: a domain by its number. */
export type SavedView = number | 'system' | 'nothing';

/** Who is attached to what, and whether that counts. */
export interface SwitchedState {
  readonly enabled: boolean;
  readonly views: readonly (readonly [requesterId: number, view: SavedView])[];
}

export const savedView = (view: DeviceView<GuestDomain>): SavedView =>
  typeof view === 'object' ? view.id : view;

/** A driver's table of attachments. Changes run one after the other; a subclass makes the hardware follow each. */
export abstract class SoftwareSwitchedIommu<Domain extends GuestDomain> implements GuestIommu {
  abstract readonly capabilities: GuestIommuCapabilities;
  readonly #views = new Map<number, DeviceView<Domain>>();
  readonly #changes = new Mutex();
  /** Of the driver and its domains. */
  protected readonly inFlight: InFlight = new InFlight();
  #enabled = false;

  abstract createDomain(): Domain;
  abstract domain(id: number): Domain | undefined;
  abstract save(): unknown;
  abstract readFaults(): Promise<GuestFault | undefined>;

  /** @throws ForeignDomainError for a domain of another driver */
  async attach(requesterId: number, domain: GuestDomain): Promise<void> {
    if (!this.isOwn(domain)) throw new ForeignDomainError('this domain was not made by this driver');
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

  /** Makes one device see its view while translation is enabled. */
  protected abstract show(requesterId: number, view: DeviceView<Domain>): Promise<void>;

  /** Enables translation: from now on each device sees its view, and one without a view sees nothing. */
  protected abstract showViews(views: ReadonlyMap<number, DeviceView<Domain>>): Promise<void>;

  /** Disables translation: every device sees system memory. */
  protected abstract showSystem(views: ReadonlyMap<number, DeviceView<Domain>>): Promise<void>;

  /** @throws InFlightError */
  protected saveViews(): SwitchedState {
    this.inFlight.expectNone('the guest driver for the vIOMMU');
    return {
      enabled: this.#enabled,
      views: [...this.#views].map(([requesterId, view]) => [requesterId, savedView(view)]),
    };
  }

  /** Takes up what {@link saveViews} gave; the hardware follows it already, and the domains are there. */
  protected restoreViews({ enabled, views }: SwitchedState): void {
    this.#enabled = enabled;
    for (const [requesterId, view] of views) this.#views.set(requesterId, this.viewOf(view));
  }

  /** @throws RangeError for a domain that there is not */
  protected viewOf(saved: SavedView): DeviceView<Domain> {
    if (typeof saved === 'string') return saved;
    const domain = this.domain(saved);
    if (!domain) throw new RangeError(`a saved attachment names domain ${saved}, which there is not`);
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
