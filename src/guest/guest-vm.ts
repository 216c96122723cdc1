/**
 * A VM as its script sees it: RAM, devices, vIOMMU, and the means to check and to report.
 */
import { nowUs, Prng, sleep } from '#host';
import { Doorbell } from '../channel/doorbell.ts';
import { MmioPort, REGION_BAR0 } from '../channel/mmio-channel.ts';
import type { Scheduling } from '../gpu/policy.ts';
import type { VgpuStats } from '../gpu/stats.ts';
import { FOUR_GIB, type Gpa, type Iova, PAGE_SIZE, PERM_RW } from '../memory/address.ts';
import { GuestRam } from '../memory/guest-ram.ts';
import { Latencies } from '../report/histograms.ts';
import { DeviceLostError, GpuDriver } from './gpu/driver.ts';
import {
  domainOf,
  GUEST_STATE_VERSION,
  numberOf,
  restoreBuffer,
  type SavedDmaBuffer,
  type SavedGuest,
  saveBuffer,
  savedStateOf,
} from './guest-state.ts';
import { InFlightError } from './in-flight.ts';
import { createGuestIommu, restoreGuestIommu, startsAtBoot } from './iommu/create-guest-iommu.ts';
import { DmaApi, type DmaBuffer } from './iommu/dma-api.ts';
import type { DmaDomain, GuestDomain, GuestIommu } from './iommu/guest-iommu.ts';
import { IovaAllocator } from './iommu/iova-allocator.ts';
import { VirtioIommuDriver } from './iommu/virtio/driver.ts';
import { Lazy } from './lazy.ts';
import { type MigrateOptions, migrate, VmMovedError } from './migration.ts';
import { MigrationError } from './migration-settings.ts';
import { PageAllocator, type PageAllocatorState } from './page-allocator.ts';
import { GuestPciDevice } from './pci-device.ts';
import type { GuestReport, GuestTask, VmControl } from './protocol.ts';
import type { RegisterPort } from './register-port.ts';
import { Verifier } from './verifier.ts';

/** IOVAs handed out by the DMA API: above every GPA, so that they are never identity by chance. */
const IOVA_BASE = 2 ** 34;
const IOVA_BYTES = 2 ** 34;
/** The first pages of RAM are left alone, as a guest's firmware would. */
const FIRST_PAGE = 0x10_0000;
const NOTE_LIMIT = 32;

/** A vGPU of this VM: its driver and its DMA API. */
export interface GuestGpu {
  readonly name: string;
  readonly index: number;
  readonly requesterId: number;
  readonly driver: GpuDriver;
  readonly dma: DmaApi;
}

export class GuestVm {
  readonly id: number;
  readonly seed: number;
  readonly params: Readonly<Record<string, unknown>>;
  readonly prng: Prng;
  readonly ram: GuestRam;
  /** Pages above 4 GiB, shuffled host frames behind them like everywhere. */
  readonly pages: PageAllocator;
  /** Pages below 4 GiB. */
  readonly lowPages: PageAllocator;
  /** The devices, if they are of the model `vgpu`. */
  readonly gpus: readonly GuestGpu[];
  /** The devices, if they are of another model: the script is their driver. */
  readonly devices: readonly GuestPciDevice[];
  readonly verify: Verifier;
  readonly latencies = new Latencies();
  /** Commands that completed. */
  operations = 0;
  /** Whether the scenario says how a VM goes on at another host. */
  migratable = false;
  readonly #task: GuestTask;
  readonly #control: VmControl;
  readonly #notes: string[] = [];
  readonly #iovas: IovaAllocator;
  readonly #lost = new Set<GuestGpu | GuestPciDevice>();
  readonly #iommu: Lazy<GuestIommu>;
  readonly #virtioIommu: Lazy<VirtioIommuDriver>;

  /**
   * With `task.snapshot` a VM whose RAM and devices are as another host left them: its drivers go on, and touch neither.
   * @throws GuestStateError if what it carries is not this VM's
   */
  constructor(task: GuestTask, control: VmControl) {
    const snapshot = savedStateOf(task);
    this.#task = task;
    this.#control = control;
    this.id = task.vm;
    this.seed = task.seed;
    this.params = task.params;
    this.prng = snapshot ? Prng.from(snapshot.prng) : new Prng(task.seed ^ 0x5eed);
    this.ram = new GuestRam(task.ram);
    const { below4g, above4g } = task.ram;
    this.lowPages = pageAllocator(this.ram, FIRST_PAGE, below4g - FIRST_PAGE, snapshot?.lowPages);
    this.pages = pageAllocator(this.ram, FOUR_GIB, above4g, snapshot?.pages);
    this.#iovas = snapshot
      ? IovaAllocator.restore(IOVA_BASE, IOVA_BYTES, snapshot.iovas)
      : new IovaAllocator(IOVA_BASE, IOVA_BYTES);
    this.#virtioIommu = new Lazy(this.#restoredVirtioIommu(snapshot));
    this.#iommu = new Lazy(this.#restoredIommu(snapshot));
    this.verify = new Verifier(this.ram);
    const isGpu = task.model === 'vgpu';
    const found = (wanted: boolean) => (isGpu === wanted ? task.devices : []);
    this.devices = found(false).map(
      (device, index) => new GuestPciDevice(device, index, new DmaApi(this.latencies, this.#iovas)),
    );
    this.gpus = found(true).map((device, index) => ({
      name: device.name,
      index,
      requesterId: device.requesterId,
      driver: snapshot
        ? GpuDriver.restore(device, index, this.ram, this.lowPages, snapshot.devices[index]?.driver)
        : new GpuDriver(device, index, this.ram, this.lowPages),
      dma: new DmaApi(this.latencies, this.#iovas),
    }));
    for (const [i, device] of this.#allDevices.entries()) {
      device.dma.setDomain(domainOf(snapshot?.devices[i]?.domain ?? null, this.#findDomain));
      if (snapshot?.devices[i]?.lost) this.#lost.add(device);
    }
  }

  /** `none` or the vIOMMU's name. */
  get viommu(): string {
    return this.#task.viommu;
  }

  /** Starts a device's driver. A device that is lost already is noted: the script finds it not alive. */
  async startGpu(gpu: GuestGpu): Promise<void> {
    if (startsAtBoot(this.viommu)) await this.iommu();
    try {
      await gpu.driver.start();
    } catch (error) {
      if (!(error instanceof DeviceLostError)) throw error;
      this.#noteLost(gpu);
    }
  }

  /** Enables a device without a driver. One that is lost already is noted: the script finds it not alive. */
  async startDevice(device: GuestPciDevice): Promise<void> {
    if (startsAtBoot(this.viommu)) await this.iommu();
    try {
      await device.start();
    } catch (error) {
      if (!(error instanceof DeviceLostError)) throw error;
      this.#noteLost(device);
    }
  }

  /**
   * The guest's driver for its vIOMMU, whichever it is, started on first use. On `intel-scalable` the parameter `stage`,
   * `first` or `second` (the default), says which tables it uses.
   * @throws Error if this VM has no vIOMMU, or for another `stage`
   */
  iommu(): Promise<GuestIommu> {
    return this.#iommu.get(() =>
      createGuestIommu({ ...this.#machine, virtioIommu: () => this.virtioIommu() }),
    );
  }

  /**
   * The domain of that number, of the driver behind {@link iommu} or {@link virtioIommu}: how a script finds the domains
   * again that it had on another host.
   */
  domain(id: number): GuestDomain | undefined {
    return this.#findDomain(id);
  }

  /** The guest's virtio-iommu driver, started on first use. @throws Error if this VM has no virtio-iommu */
  async virtioIommu(): Promise<VirtioIommuDriver> {
    if (this.#task.viommu !== 'virtio')
      throw new Error(`VM ${this.id} has vIOMMU '${this.#task.viommu}', not 'virtio'`);
    return this.#virtioIommu.get(() =>
      VirtioIommuDriver.create(this.iommuRegisters(), this.ram, this.lowPages),
    );
  }

  /** The vIOMMU's registers, bare: for scripts that are their own driver, or a bad one. */
  iommuRegisters(): RegisterPort {
    const { coordinatorDoorbell, coordinatorSenders, coordinatorBit, iommuMmio } = this.#task;
    const doorbell = new Doorbell(coordinatorDoorbell, 0, coordinatorSenders);
    const port = new MmioPort(iommuMmio, 0, () => doorbell.ring(coordinatorBit));
    return {
      write: (offset, size, value) => port.write(REGION_BAR0, offset, size, value),
      read: (offset, size) => port.read(REGION_BAR0, offset, size),
    };
  }

  /** Names what happens now: shown as progress, written to the trace. */
  async phase(name: string): Promise<void> {
    await this.#control.phase(name);
  }

  /** Tells the run how far this VM is. */
  async progress(): Promise<void> {
    await this.#control.progress(this.operations, this.verify.bytesVerified);
  }

  /** A line for the report. */
  note(text: string): void {
    if (this.#notes.length < NOTE_LIMIT) this.#notes.push(text);
  }

  /** Announces a DMA fault of this device in the page of `iova`. Unannounced faults fail the run. */
  async expectFault(gpu: GuestGpu | GuestPciDevice, iova: Iova): Promise<void> {
    await this.#control.expectFault(gpu.index, iova);
  }

  /** Has every container compared with the tables; differences are violations. Resolves to their number. */
  audit(): Promise<number> {
    return Promise.resolve(this.#control.audit());
  }

  /**
   * Divides the engines of the physical GPUs in another way, from the next turn on. The host's business, not a guest's:
   * it counts for all VMs of the host process.
   * @throws RangeError for a policy or slice that there is not
   */
  async schedule(scheduling: Scheduling): Promise<void> {
    await this.#control.schedule(scheduling);
  }

  /** What every vGPU of this host process has had of its engine so far; see usageBetween. */
  gpuStats(): Promise<readonly VgpuStats[]> {
    return Promise.resolve(this.#control.gpuStats());
  }

  /**
   * Runs `work` for every device that is alive, at the same time. A device that is lost meanwhile is noted and left
   * behind; any other error is the script's.
   */
  async eachGpu(work: (gpu: GuestGpu) => Promise<void>): Promise<void> {
    await Promise.all(
      this.gpus.map(async (gpu) => {
        try {
          if (gpu.driver.alive) await work(gpu);
        } catch (error) {
          if (!(error instanceof DeviceLostError)) throw error;
        }
        if (!gpu.driver.alive) this.#noteLost(gpu);
      }),
    );
  }

  /** {@link eachGpu} for devices without a driver. */
  async eachDevice(work: (device: GuestPciDevice) => Promise<void>): Promise<void> {
    await Promise.all(
      this.devices.map(async (device) => {
        try {
          if (device.alive) await work(device);
        } catch (error) {
          if (!(error instanceof DeviceLostError)) throw error;
        }
        if (!device.alive) this.#noteLost(device);
      }),
    );
  }

  /** Times a switch of address spaces, as the guest sees it. */
  async timedSwitch(work: () => Promise<void>): Promise<void> {
    const since = nowUs();
    await work();
    this.latencies.recordUs('switch', nowUs() - since);
  }

  /** Maps what the device reaches on its own, and `extra`, at IOVA = GPA: it then works through a switch. */
  async mapIdentity(domain: DmaDomain, gpu: GuestGpu, extra: readonly Gpa[] = []): Promise<void> {
    await domain.mapAll(
      [...gpu.driver.staticPages, ...extra].map((gpa) => ({
        iova: gpa,
        gpa,
        size: PAGE_SIZE,
        perm: PERM_RW,
      })),
    );
  }

  /**
   * Moves this VM to another host process, while it and its devices work on. The script ends here: it throws
   * VmMovedError, which is no failure, and the scenario's `resume(vm, state)` begins at the other host.
   * @throws MigrationError, or what `work` throws, if the VM stays: the script may go on
   */
  migrate(options: MigrateOptions = {}): Promise<never> {
    if (!this.migratable) throw new MigrationError('the scenario has no resume(vm, state)');
    return migrate(this, this.#control, options).catch((error) => {
      if (error instanceof VmMovedError) this.latencies.recordUs('downtime', error.figures.downtimeUs);
      throw error;
    });
  }

  /**
   * What the drivers know beside guest RAM and the hardware, for {@link GuestTask.snapshot}. What this host reports of the
   * VM (operations, checks, latencies, notes) is its own and stays.
   * @throws InFlightError naming what is under way, GuestStateError for a device in a domain of a script's own driver
   */
  save(): SavedGuest {
    const [iommu, virtioIommu] = [this.#iommu, this.#virtioIommu];
    if (iommu.starting || virtioIommu.starting)
      throw new InFlightError(`VM ${this.id}`, ["the start of the vIOMMU's driver"]);
    for (const device of this.#allDevices) device.dma.expectIdle(device.name);
    return {
      version: GUEST_STATE_VERSION,
      viommu: this.viommu,
      prng: this.prng.state,
      lowPages: this.lowPages.save(),
      pages: this.pages.save(),
      iovas: this.#iovas.save(),
      devices: this.#allDevices.map((device) => ({
        name: device.name,
        domain: numberOf(device.dma.domain, this.#findDomain),
        driver: 'driver' in device ? device.driver.save() : null,
        lost: this.#lost.has(device),
      })),
      virtioIommu: virtioIommu.value?.save() ?? null,
      iommu: iommu.value?.save() ?? null,
    };
  }

  /** A buffer of a device's DMA API as JSON, for a script's own state. @throws GuestStateError as {@link save} */
  saveBuffer(buffer: DmaBuffer): SavedDmaBuffer {
    return saveBuffer(buffer, this.#findDomain);
  }

  /** The buffer again, at the other host. @throws GuestStateError for a domain that there is not */
  restoreBuffer(saved: SavedDmaBuffer): DmaBuffer {
    return restoreBuffer(saved, this.#findDomain);
  }

  get #allDevices(): readonly (GuestGpu | GuestPciDevice)[] {
    return [...this.gpus, ...this.devices];
  }

  /** What the vIOMMU's driver is made from. */
  get #machine() {
    const { viommu, devices, fault } = this.#task;
    const registers = () => this.iommuRegisters();
    const requesterIds = devices.map(({ requesterId }) => requesterId);
    return {
      viommu,
      ram: this.ram,
      pages: this.lowPages,
      params: this.params,
      requesterIds,
      fault,
      registers,
    };
  }

  readonly #findDomain = (id: number): GuestDomain | undefined =>
    this.#iommu.value?.domain(id) ?? this.#virtioIommu.value?.domain(id);

  #restoredVirtioIommu(snapshot: SavedGuest | undefined): VirtioIommuDriver | undefined {
    if (!snapshot?.virtioIommu) return undefined;
    return VirtioIommuDriver.restore(this.iommuRegisters(), this.ram, this.lowPages, snapshot.virtioIommu);
  }

  #restoredIommu(snapshot: SavedGuest | undefined): GuestIommu | undefined {
    if (!snapshot?.iommu) return undefined;
    return restoreGuestIommu({ ...this.#machine, virtioIommu: this.#virtioIommu.value }, snapshot.iommu);
  }

  sleep(ms: number): Promise<void> {
    return sleep(ms);
  }

  #noteLost(gpu: GuestGpu | GuestPciDevice): void {
    if (this.#lost.has(gpu)) return;
    this.#lost.add(gpu);
    this.note(`VM ${this.id}: ${gpu.name} is lost, the others go on`);
  }

  /** The report of the script's end. */
  report(error: string): GuestReport {
    return {
      operations: this.operations,
      bytesVerified: this.verify.bytesVerified,
      mismatches: this.verify.mismatches,
      failures: this.verify.failures.map((text) => `VM ${this.id}: ${text}`),
      notes: this.#notes,
      histograms: this.latencies.encode(),
      error,
    };
  }
}

function pageAllocator(
  ram: GuestRam,
  base: number,
  size: number,
  saved: PageAllocatorState | undefined,
): PageAllocator {
  return saved ? PageAllocator.restore(ram, base, size, saved) : new PageAllocator(ram, base, size);
}
