/**
 * sPAPR windows behind the interface of all vIOMMUs. PowerPC has no untranslated mode: "system memory" is a default
 * window whose TCEs map every page of RAM at bus address = GPA, and a switch rewrites the TCEs that differ. Each device
 * is behind a bridge of its own, so that its window is its own.
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
  type TceDomainState,
} from './domain.ts';
import { SpaprDriver, type SpaprState } from './driver.ts';

const NOTHING: PageMap = new Map();

/** A device's window, and what it shows now. */
interface DeviceSlot {
  readonly window: DeviceWindow;
  shows: DeviceView<SpaprDomain>;
}

/** What it knows beside guest RAM and the hypervisor's tables. */
export interface SwitchedSpaprState extends SwitchedState {
  readonly drivers: SpaprState;
  readonly domains: readonly TceDomainState[];
  /** In the order of the drivers. */
  readonly stations: readonly {
    readonly requesterId: number;
    readonly held: SavedPages;
    readonly shows: SavedView;
  }[];
}

export class SoftwareSwitchedSpapr extends SoftwareSwitchedIommu<SpaprDomain> {
  /** A refused DMA freezes a real bridge (EEH), which is not modelled: the guest is not told. */
  readonly capabilities = { passThrough: true, faultRecords: false };
  readonly #system: PageMap;
  readonly #drivers: readonly SpaprDriver[];
  /** By requester ID, in the order of the drivers. */
  readonly #stations: ReadonlyMap<number, DeviceSlot>;
  /** By number; there are as many as were ever made. */
  readonly #domains = new Map<number, SpaprDomain>();

  private constructor(
    ram: GuestRam,
    drivers: readonly SpaprDriver[],
    stations: ReadonlyMap<number, DeviceSlot>,
  ) {
    super();
    this.#system = pagesOf(ram.regions.map(({ gpa, size }) => ({ iova: gpa, gpa, size, perm: PERM_RW })));
    this.#drivers = drivers;
    this.#stations = stations;
  }

  /**
   * A driver with translation disabled: every device's window maps all of RAM.
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
    const stations = new Map<number, DeviceSlot>();
    for (const [i, id] of requesterIds.entries()) {
      const { defaultDomain } = drivers[i] as SpaprDriver;
      stations.set(id, { window: new DeviceWindow(defaultDomain), shows: 'nothing' });
    }
    const iommu = new SoftwareSwitchedSpapr(ram, drivers, stations);
    await iommu.showSystem();
    return iommu;
  }

  /** One that goes on where another was; RAM and the hypervisor's tables are as that one left them. */
  static restore(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    saved: SwitchedSpaprState,
  ): SoftwareSwitchedSpapr {
    const drivers = SpaprDriver.restoreAll(port, ram, pages, saved.drivers);
    const stations = new Map<number, DeviceSlot>();
    for (const [i, { requesterId, held }] of saved.stations.entries()) {
      const { defaultDomain } = drivers[i] as SpaprDriver;
      stations.set(requesterId, { window: new DeviceWindow(defaultDomain, held), shows: 'nothing' });
    }
    const iommu = new SoftwareSwitchedSpapr(ram, drivers, stations);
    for (const { id, pages: held } of saved.domains) iommu.#addDomain(id, held);
    iommu.restoreViews(saved);
    for (const { requesterId, shows } of saved.stations) iommu.#resume(requesterId, iommu.viewOf(shows));
    return iommu;
  }

  save(): SwitchedSpaprState {
    return {
      ...this.saveViews(),
      drivers: SpaprDriver.saveAll(this.#drivers),
      domains: [...this.#domains.values()].map((domain) => domain.save()),
      stations: [...this.#stations].map(([requesterId, { window, shows }]) => ({
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
    const station = this.#stations.get(requesterId);
    if (!station) throw new RangeError(`there is no device ${requesterId}`);
    const { window, shows: previous } = station;
    if (typeof view === 'object' && view === previous) return;
    station.shows = view;
    if (typeof view === 'object') await view.enter(window);
    else await window.show(this.#pagesOf(view));
    if (typeof previous === 'object') previous.leave(window);
  }

  protected async showViews(views: ReadonlyMap<number, DeviceView<SpaprDomain>>): Promise<void> {
    await Promise.all([...this.#stations.keys()].map((id) => this.show(id, views.get(id) ?? 'nothing')));
  }

  protected async showSystem(): Promise<void> {
    await Promise.all([...this.#stations.keys()].map((id) => this.show(id, 'system')));
  }

  #addDomain(id: number, pages?: SavedPages): SpaprDomain {
    const domain = new SpaprDomain(id, SCENARIO_WINDOW_SIZE, this.inFlight, pages);
    this.#domains.set(id, domain);
    return domain;
  }

  /** A window shows this view already: it follows it from now on. */
  #resume(requesterId: number, view: DeviceView<SpaprDomain>): void {
    const station = this.#stations.get(requesterId) as DeviceSlot;
    station.shows = view;
    if (typeof view === 'object') view.resume(station.window);
    else station.window.resume(this.#pagesOf(view));
  }

  #pagesOf(view: 'system' | 'nothing'): PageMap {
    return view === 'system' ? this.#system : NOTHING;
  }
}
