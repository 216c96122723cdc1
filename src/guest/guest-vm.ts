/**
 * A VM as its script sees it: RAM, devices, vIOMMU, and the means to check and to report.
 */
import { nowUs, Prng, sleep } from '#host';
import { FOUR_GIB, type Gpa, type Iova, PAGE_SIZE, PERM_RW } from '../address/address.ts';
import { Doorbell } from '../channel/doorbell.ts';
import { MmioPort, REGION_BAR0 } from '../channel/mmio-channel.ts';
import type { VgpuFigures } from '../gpu/figures.ts';
import type { Scheduling } from '../gpu/policy.ts';
import { GuestRam } from '../host/guest-ram.ts';
import { Latencies } from '../report/histograms.ts';
import { DmaApi, type DmaDomain } from './dma-api.ts';
import { DeviceLostError, GpuDriver } from './gpu-driver.ts';
import type { GuestIommu } from './iommu-driver.ts';
import { IovaAllocator } from './iova-allocator.ts';
import { makeGuestIommu, startsAtBoot } from './make-guest-iommu.ts';
import { PageAllocator } from './page-allocator.ts';
import { GuestPciDevice } from './pci-device.ts';
import { type MigrateOptions, migrate } from './migration.ts';
import { MigrationError } from './migration-settings.ts';
import type { GuestReport, GuestTask, VmControl } from './protocol.ts';
import type { RegisterPort } from './register-port.ts';
import { Verifier } from './verifier.ts';
import { VirtioIommuDriver } from './virtio-iommu-driver.ts';

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
  readonly #iovas = new IovaAllocator(IOVA_BASE, IOVA_BYTES);
  readonly #lost = new Set<GuestGpu | GuestPciDevice>();
  #iommu: Promise<GuestIommu> | undefined;
  #virtioIommu: Promise<VirtioIommuDriver> | undefined;

  constructor(task: GuestTask, control: VmControl) {
    this.#task = task;
    this.#control = control;
    this.id = task.vm;
    this.seed = task.seed;
    this.params = task.params;
    this.prng = new Prng(task.seed ^ 0x5eed);
    this.ram = new GuestRam(task.ram);
    const { below4g, above4g } = task.ram;
    this.lowPages = new PageAllocator(this.ram, FIRST_PAGE, below4g - FIRST_PAGE);
    this.pages = new PageAllocator(this.ram, FOUR_GIB, above4g);
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
      driver: new GpuDriver(device, index, this.ram, this.lowPages),
      dma: new DmaApi(this.latencies, this.#iovas),
    }));
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
    this.#iommu ??= makeGuestIommu({
      viommu: this.viommu,
      ram: this.ram,
      pages: this.lowPages,
      params: this.params,
      requesterIds: this.#task.devices.map(({ requesterId }) => requesterId),
      fault: this.#task.fault,
      registers: () => this.iommuRegisters(),
      virtioIommu: () => this.virtioIommu(),
    });
    return this.#iommu;
  }

  /** The guest's virtio-iommu driver, started on first use. @throws Error if this VM has no virtio-iommu */
  async virtioIommu(): Promise<VirtioIommuDriver> {
    if (this.#task.viommu !== 'virtio')
      throw new Error(`VM ${this.id} has vIOMMU '${this.#task.viommu}', not 'virtio'`);
    this.#virtioIommu ??= VirtioIommuDriver.create(this.iommuRegisters(), this.ram, this.lowPages);
    return this.#virtioIommu;
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
  gpuFigures(): Promise<readonly VgpuFigures[]> {
    return Promise.resolve(this.#control.gpuFigures());
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
    return migrate(this, this.#control, options);
  }

  /** What the drivers know beside guest RAM, for {@link GuestTask.carried}. @throws Error naming what is under way */
  save(): unknown {
    throw new Error('not yet');
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
