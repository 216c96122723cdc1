/**
 * sPAPR windows behind the interface of all vIOMMUs. PowerPC has no untranslated mode: "system memory" is a default
 * window whose TCEs map every page of RAM at bus address = GPA, and a switch rewrites the TCEs that differ. Each device
 * is behind a bridge of its own, so that its window is its own.
 */
import { PERM_RW } from '../address/address.ts';
import type { GuestRam } from '../host/guest-ram.ts';
import { bridgeOfDevice, SCENARIO_WINDOW_SIZE, scenarioWindow } from '../pci/spapr-format.ts';
import type { GuestDomain, GuestFault } from './iommu-driver.ts';
import type { PageAllocator } from './page-allocator.ts';
import type { RegisterPort } from './register-port.ts';
import { SpaprDriver } from './spapr-driver.ts';
import { type DeviceView, SwitchedIommu } from './switched-iommu.ts';
import { DeviceWindow, type PageSet, pagesOf, TceDomain } from './tce-domain.ts';

const NOTHING: PageSet = new Map();

/** A device's window, and the domain that it shows, if any. */
interface Station {
  readonly window: DeviceWindow;
  domain: TceDomain | undefined;
}

export class SwitchedSpapr extends SwitchedIommu<TceDomain> {
  /** A refused DMA freezes a real bridge (EEH), which is not modelled: the guest is not told. */
  readonly capabilities = { passThrough: true, faultRecords: false };
  readonly #system: PageSet;
  readonly #stations: ReadonlyMap<number, Station>;

  private constructor(system: PageSet, stations: ReadonlyMap<number, Station>) {
    super();
    this.#system = system;
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
  ): Promise<SwitchedSpapr> {
    const bridges = requesterIds.map((id) => {
      const bridge = bridgeOfDevice(id);
      return { bridge, defaultWindow: scenarioWindow(bridge) };
    });
    const drivers = await SpaprDriver.createAll(port, ram, pages, bridges);
    const system = pagesOf(ram.regions.map(({ gpa, size }) => ({ iova: gpa, gpa, size, perm: PERM_RW })));
    const stations = new Map<number, Station>();
    for (const [i, id] of requesterIds.entries()) {
      const { defaultDomain } = drivers[i] as SpaprDriver;
      stations.set(id, { window: new DeviceWindow(defaultDomain), domain: undefined });
    }
    const iommu = new SwitchedSpapr(system, stations);
    await iommu.showSystem();
    return iommu;
  }

  createDomain(): TceDomain {
    return new TceDomain(SCENARIO_WINDOW_SIZE);
  }

  async readFaults(): Promise<GuestFault | undefined> {
    return undefined;
  }

  protected isOwn(domain: GuestDomain): domain is TceDomain {
    return domain instanceof TceDomain;
  }

  protected async show(requesterId: number, view: DeviceView<TceDomain>): Promise<void> {
    const station = this.#stations.get(requesterId);
    if (!station) throw new RangeError(`there is no device ${requesterId}`);
    const { window, domain: previous } = station;
    const domain = view === 'system' || view === 'nothing' ? undefined : view;
    if (domain && domain === previous) return;
    station.domain = domain;
    if (domain) await domain.enter(window);
    else await window.show(view === 'system' ? this.#system : NOTHING);
    previous?.leave(window);
  }

  protected async showViews(views: ReadonlyMap<number, DeviceView<TceDomain>>): Promise<void> {
    await Promise.all([...this.#stations.keys()].map((id) => this.show(id, views.get(id) ?? 'nothing')));
  }

  protected async showSystem(): Promise<void> {
    await Promise.all([...this.#stations.keys()].map((id) => this.show(id, 'system')));
  }
}
