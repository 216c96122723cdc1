/**
 * sPAPR driver with the interface of every vIOMMU driver. PowerPC has no untranslated mode: "system memory" is a
 * default window whose TCEs map all of RAM at bus address = GPA, and a switch rewrites the TCEs that differ. Each
 * device has its own bridge, and so its own window.
 */

import { bridgeOfDevice, SCENARIO_WINDOW_SIZE, scenarioWindow } from '../../../abi/spapr-host-bridges.ts';
import { PERM_RW } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import type { GuestDomain, GuestFault } from '../guest-iommu.ts';
import {
  type DeviceView,
  type SavedView,
  SoftwareSwitchedIommu,
  type SwitchedState,
  savedView,
} from '../software-switched-iommu.ts';
import {
  DeviceWindow,
  type PageMap,
  pagesOf,
  type SavedPages,
  SpaprDomain,
  type SpaprDomainState,
} from './domain.ts';
import { SpaprDriver, type SpaprState } from './driver.ts';

const NOTHING: PageMap = new Map();

/** The window of a device, and the view that it shows. */
interface WindowedDevice {
  readonly window: DeviceWindow;
  shows: DeviceView<SpaprDomain>;
}

/** State of a driver beside guest RAM and the hypervisor's tables. */
export interface SwitchedSpaprState extends SwitchedState {
  readonly drivers: SpaprState;
  readonly domains: readonly SpaprDomainState[];
  /** In the order of the drivers. */
  readonly devices: readonly {
    readonly requesterId: number;
    readonly held: SavedPages;
    readonly shows: SavedView;
  }[];
}

/** The driver of all devices of a guest on sPAPR. */
export class SoftwareSwitchedSpapr extends SoftwareSwitchedIommu<SpaprDomain> {
  /** Real hardware freezes the bridge on a refused DMA (EEH). EEH is not modelled, so the guest gets no report. */
  readonly capabilities = { passThrough: true, faultRecords: false };
  readonly #system: PageMap;
  readonly #drivers: readonly SpaprDriver[];
  /** By requester ID, in the order of the drivers. */
  readonly #devices: ReadonlyMap<number, WindowedDevice>;
  /** All domains by ID; domains are never destroyed. */
  readonly #domains = new Map<number, SpaprDomain>();

  private constructor(
    ram: GuestRam,
    drivers: readonly SpaprDriver[],
    devices: ReadonlyMap<number, WindowedDevice>,
  ) {
    super();
    this.#system = pagesOf(ram.regions.map(({ gpa, size }) => ({ iova: gpa, gpa, size, perm: PERM_RW })));
    this.#drivers = drivers;
    this.#devices = devices;
  }

  /**
   * Creates a driver with translation disabled: every device's window maps all of RAM.
   * @throws SpaprDriverError, HypercallError if RAM has more pages than the platform has TCEs, HypercallTimeout
   */
  static async create(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    requesterIds: readonly number[],
  ): Promise<SoftwareSwitchedSpapr> {
    const bridges = requesterIds.map((id) => {
      const bridge = bridgeOfDevice(id);
      return { bridge, defaultWindow: scenarioWindow(bridge) };
    });
    const drivers = await SpaprDriver.createAll(port, ram, pages, bridges);
    const devices = new Map<number, WindowedDevice>();
    for (const [i, id] of requesterIds.entries()) {
      const { defaultDomain } = drivers[i] as SpaprDriver;
      devices.set(id, { window: new DeviceWindow(defaultDomain), shows: 'nothing' });
    }
    const iommu = new SoftwareSwitchedSpapr(ram, drivers, devices);
    await iommu.showSystem();
    return iommu;
  }

  /** Restores a driver from its {@link save}. RAM and the hypervisor's tables are restored already. */
  static restore(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SwitchedSpaprState,
  ): SoftwareSwitchedSpapr {
    const drivers = SpaprDriver.restoreAll(port, ram, pages, saved.drivers);
    const devices = new Map<number, WindowedDevice>();
    for (const [i, { requesterId, held }] of saved.devices.entries()) {
      const { defaultDomain } = drivers[i] as SpaprDriver;
      devices.set(requesterId, { window: new DeviceWindow(defaultDomain, held), shows: 'nothing' });
    }
    const iommu = new SoftwareSwitchedSpapr(ram, drivers, devices);
    for (const { id, pages: held } of saved.domains) iommu.#addDomain(id, held);
    iommu.restoreViews(saved);
    for (const { requesterId, shows } of saved.devices) iommu.#resume(requesterId, iommu.viewOf(shows));
    return iommu;
  }

  save(): SwitchedSpaprState {
    return {
      ...this.saveViews(),
      drivers: SpaprDriver.saveAll(this.#drivers),
      domains: [...this.#domains.values()].map((domain) => domain.save()),
      devices: [...this.#devices].map(([requesterId, { window, shows }]) => ({
        requesterId,
        held: window.save(),
        shows: savedView(shows),
      })),
    };
  }

  createDomain(): SpaprDomain {
    return this.#addDomain(this.#domains.size);
  }

  domain(id: number): SpaprDomain | undefined {
    return this.#domains.get(id);
  }

  async readFaults(): Promise<GuestFault | undefined> {
    return undefined;
  }

  protected isOwn(domain: GuestDomain): domain is SpaprDomain {
    return domain instanceof SpaprDomain;
  }

  protected async show(requesterId: number, view: DeviceView<SpaprDomain>): Promise<void> {
    const device = this.#devices.get(requesterId);
    if (!device) throw new RangeError(`there is no device ${requesterId}`);
    const { window, shows: previous } = device;
    if (typeof view === 'object' && view === previous) return;
    device.shows = view;
    if (typeof view === 'object') await view.enter(window);
    else await window.show(this.#pagesOf(view));
    if (typeof previous === 'object') previous.leave(window);
  }

  protected async showViews(views: ReadonlyMap<number, DeviceView<SpaprDomain>>): Promise<void> {
    await Promise.all([...this.#devices.keys()].map((id) => this.show(id, views.get(id) ?? 'nothing')));
  }

  protected async showSystem(): Promise<void> {
    await Promise.all([...this.#devices.keys()].map((id) => this.show(id, 'system')));
  }

  #addDomain(id: number, pages?: SavedPages): SpaprDomain {
    const domain = new SpaprDomain(id, SCENARIO_WINDOW_SIZE, this.inFlight, pages);
    this.#domains.set(id, domain);
    return domain;
  }

  /** Makes a window that shows this view already follow its changes. */
  #resume(requesterId: number, view: DeviceView<SpaprDomain>): void {
    const device = this.#devices.get(requesterId) as WindowedDevice;
    device.shows = view;
    if (typeof view === 'object') view.resume(device.window);
    else device.window.resume(this.#pagesOf(view));
  }

  #pagesOf(view: 'system' | 'nothing'): PageMap {
    return view === 'system' ? this.#system : NOTHING;
  }
}
