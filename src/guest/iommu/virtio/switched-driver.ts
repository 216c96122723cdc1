/**
 * virtio-iommu driver with the interface of every vIOMMU driver. While translation is disabled, endpoints are in no
 * domain and `bypass` lets them see system memory. While it is enabled, they are in their domains, and `bypass` is 0.
 */
import { FAULT_F_WRITE } from '../../../abi/virtio-iommu.ts';
import type { GuestDomain, GuestFault } from '../guest-iommu.ts';
import { type DeviceView, SoftwareSwitchedIommu, type SwitchedState } from '../software-switched-iommu.ts';
import { VirtioIommuDomain, type VirtioIommuDriver } from './driver.ts';

/**
 * The host bridge, 00:00.0, an endpoint without DMA. The device drops the mappings of a domain without endpoints, so
 * a working device that entered such a domain would fault until the domain is filled. The placeholder enters first,
 * and the domain is filled before the device enters.
 */
const PLACEHOLDER = 0;

/** State beside that of the virtio-iommu driver. */
export interface SwitchedVirtioState extends SwitchedState {
  /** ID of the bypass domain. */
  readonly bypass: number;
}

/** The driver of all devices of a guest behind a virtio-iommu. */
export class SoftwareSwitchedVirtioIommu extends SoftwareSwitchedIommu<VirtioIommuDomain> {
  readonly capabilities = { passThrough: true, faultRecords: true };
  readonly #driver: VirtioIommuDriver;
  readonly #bypass: VirtioIommuDomain;

  /**
   * @param driver must be started, with no endpoint in a domain
   * @param bypass domain of the devices that see system memory; a new one by default
   * @throws VirtioIommuError without VIRTIO_IOMMU_F_BYPASS_CONFIG
   */
  constructor(driver: VirtioIommuDriver, bypass: VirtioIommuDomain = driver.createBypassDomain()) {
    super();
    this.#driver = driver;
    this.#bypass = bypass;
  }

  /** Restores a driver over its restored virtio-iommu driver. @throws RangeError if they do not fit together */
  static restore(driver: VirtioIommuDriver, saved: SwitchedVirtioState): SoftwareSwitchedVirtioIommu {
    const bypass = driver.domain(saved.bypass);
    if (!bypass) throw new RangeError(`the saved bypass domain ${saved.bypass} is not one of the driver's`);
    const iommu = new SoftwareSwitchedVirtioIommu(driver, bypass);
    iommu.restoreViews(saved);
    return iommu;
  }

  save(): SwitchedVirtioState {
    return { ...this.saveViews(), bypass: this.#bypass.id };
  }

  domain(id: number): VirtioIommuDomain | undefined {
    return this.#driver.domain(id);
  }

  /** @throws VirtioIommuError if all domain IDs are in use */
  createDomain(): VirtioIommuDomain {
    return this.#driver.createDomain();
  }

  /** The device's flags name the permission that a mapping lacks: without any mapping, `write` is false. */
  async readFaults(): Promise<GuestFault | undefined> {
    const [fault] = await this.#driver.readFaults();
    if (!fault) return undefined;
    const { endpoint, address, flags, reason } = fault;
    return { requesterId: endpoint, iova: address, write: (flags & FAULT_F_WRITE) !== 0, reason };
  }

  protected isOwn(domain: GuestDomain): domain is VirtioIommuDomain {
    return domain instanceof VirtioIommuDomain;
  }

  protected async show(requesterId: number, view: DeviceView<VirtioIommuDomain>): Promise<void> {
    if (view === 'nothing') await this.#driver.detach(requesterId);
    else if (view === 'system') await this.#driver.attach(requesterId, this.#bypass);
    else await this.#enter(requesterId, view);
  }

  protected async showViews(views: ReadonlyMap<number, DeviceView<VirtioIommuDomain>>): Promise<void> {
    for (const [requesterId, view] of views) await this.show(requesterId, view);
    await this.#driver.setBypass(false);
  }

  protected async showSystem(views: ReadonlyMap<number, DeviceView<VirtioIommuDomain>>): Promise<void> {
    await this.#driver.setBypass(true);
    for (const requesterId of views.keys()) await this.#driver.detach(requesterId);
  }

  async #enter(requesterId: number, domain: VirtioIommuDomain): Promise<void> {
    if (domain.endpoints.size > 0) return this.#driver.attach(requesterId, domain);
    await this.#driver.attach(PLACEHOLDER, domain);
    try {
      await this.#driver.attach(requesterId, domain);
    } finally {
      await this.#driver.detach(PLACEHOLDER);
    }
  }
}
