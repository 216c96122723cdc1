/**
 * The part of a driver that hardware without a translation switch needs in software: who is attached to what, and
 * whether that counts now.
 */
import type { GuestDomain, GuestFault, GuestIommu, GuestIommuCapabilities } from './iommu-driver.ts';
import { Mutex } from './mutex.ts';

/** What a device is to see while translation is enabled. */
export type DeviceView<Domain> = Domain | 'system' | 'nothing';

/** Thrown when a script hands a driver something that is not its own. */
export class ForeignDomainError extends TypeError {
  override name = 'ForeignDomainError';
}

/** A driver's table of attachments. Changes run one after the other; a subclass makes the hardware follow each. */
export abstract class SwitchedIommu<Domain extends GuestDomain> implements GuestIommu {
  abstract readonly capabilities: GuestIommuCapabilities;
  readonly #views = new Map<number, DeviceView<Domain>>();
  readonly #changes = new Mutex();
  #enabled = false;

  abstract createDomain(): Domain;
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
    return this.#changes.run(async () => {
      if (this.#enabled) return;
      await this.showViews(this.#views);
      this.#enabled = true;
    });
  }

  disableTranslation(): Promise<void> {
    return this.#changes.run(async () => {
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

  #change(requesterId: number, view: DeviceView<Domain>): Promise<void> {
    return this.#changes.run(async () => {
      if (this.#enabled) await this.show(requesterId, view);
      this.#views.set(requesterId, view);
    });
  }
}
