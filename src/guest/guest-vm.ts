/**
 * A VM as its script sees it: RAM, devices and vIOMMU, with the means to check results and to report.
 */
import { nowUs, type Prng, sleep } from '#host';
import { GuestJournal, JournalLine } from '../channel/guest-journal.ts';
import type { Scheduling } from '../gpu/policy.ts';
import type { VgpuStats } from '../gpu/stats.ts';
import { type Gpa, type Iova, PAGE_SIZE, PERM_RW, toIova } from '../memory/address.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import { Metrics } from '../metrics/metrics.ts';
import { Latencies } from '../report/histograms.ts';
import { boundedText, PHASE_LIMIT } from '../report/text.ts';
import { DeviceLostError } from './gpu/errors.ts';
import {
  GUEST_STATE_VERSION,
  idOf,
  restoreBuffer,
  type SavedDmaBuffer,
  type SavedGuest,
  saveBuffer,
  savedStateOf,
} from './guest-state.ts';
import { endOfCalls } from './in-flight.ts';
import { startsAtBoot } from './iommu/create-guest-iommu.ts';
import type { DmaBuffer } from './iommu/dma-api.ts';
import type { DmaDomain, GuestDomain, GuestIommu } from './iommu/guest-iommu.ts';
import type { VirtioIommuDriver } from './iommu/virtio/driver.ts';
import { type MigrateOptions, migrate, VmMovedError } from './migration.ts';
import { MigrationError } from './migration-settings.ts';
import { Mutex } from './mutex.ts';
import type { PageAllocator } from './page-allocator.ts';
import type { GuestPciDevice } from './pci-device.ts';
import { ANNOUNCE_MS, type GuestReport, type GuestTask, type VmControl } from './protocol.ts';
import type { RegisterPort } from './register-port.ts';
import { Verifier } from './verifier.ts';
import { createVmParts, type GuestDmaDevice, type GuestGpu, type VmParts } from './vm-parts.ts';

/** A VM, as its script drives it: one instance in the guest worker of the VM. */
export class GuestVm {
  /** Index of the VM in its run, from 0. */
  readonly id: number;
  /** Seed of {@link prng}. */
  readonly seed: number;
  /** The scenario's `params`, with those of the command line. */
  readonly params: Readonly<Record<string, unknown>>;
  /** Folder of the run's own files, such as screenshots; it need not exist yet. */
  readonly folder: string;
  readonly prng: Prng;
  /** Guest RAM by GPA. */
  readonly ram: GuestRam;
  /** Pages above 4 GiB. */
  readonly pages: PageAllocator;
  /** Pages below 4 GiB. */
  readonly lowPages: PageAllocator;
  /** The devices if their model is `vgpu`; else empty. */
  readonly gpus: readonly GuestGpu[];
  /** The devices if their model is not `vgpu`; else empty. The script is their driver. */
  readonly devices: readonly GuestPciDevice[];
  readonly verify: Verifier;
  readonly latencies: Latencies = new Latencies();
  /** The VM's metrics; a script may add its own. */
  readonly metrics: Metrics = new Metrics();
  /** True if the scenario has a `resume`. */
  migratable = false;
  readonly #task: GuestTask;
  readonly #control: VmControl;
  readonly #parts: VmParts;
  readonly #journal: GuestJournal;
  readonly #lost = new Set<GuestDmaDevice>();
  readonly #audits = new Mutex();
  /** True if the script may change tables without a driver's call. */
  #hasOwnDriver = false;

  /**
   * With `task.snapshot` the drivers continue where those of the last host stopped; RAM and devices are not touched.
   * @throws GuestStateError, SavedGpuError for a snapshot that does not fit this VM
   */
  constructor(task: GuestTask, control: VmControl) {
    const saved = savedStateOf(task);
    const parts = createVmParts(task, this.latencies, this.metrics, saved);
    this.#task = task;
    this.#control = control;
    this.#parts = parts;
    this.id = task.vm;
    this.seed = task.seed;
    this.params = task.params;
    this.folder = task.folder;
    this.prng = parts.prng;
    this.ram = parts.ram;
    this.pages = parts.pages;
    this.lowPages = parts.lowPages;
    this.gpus = parts.gpus;
    this.devices = parts.devices;
    this.#journal = new GuestJournal(task.journal);
    this.verify = new Verifier(parts.ram, this.#journal);
    for (const [i, device] of this.#allDevices.entries()) if (saved?.devices[i]?.lost) this.#lost.add(device);
  }

  /** Count of completed commands, for progress and report. A value that is no count is ignored. */
  get operations(): number {
    return this.#journal.get('operations');
  }

  /** Does as `operations++`, without a read of the shared counter. */
  countOperation(): void {
    this.#journal.add('operations', 1);
  }

  set operations(count: number) {
    this.#journal.set('operations', count);
  }

  /** Kind of the vIOMMU, as in the scenario's setting `viommu`; `none` without one. */
  get viommu(): string {
    return this.#task.viommu;
  }

  /** Starts the driver of a vGPU. A device that is lost is noted; the script finds it not alive. */
  startGpu(gpu: GuestGpu): Promise<void> {
    return this.#start(gpu, () => gpu.driver.start());
  }

  /** Enables a device without a driver. A device that is lost is noted; the script finds it not alive. */
  startDevice(device: GuestPciDevice): Promise<void> {
    return this.#start(device, () => device.start());
  }

  /**
   * Resolves to the guest's driver for its vIOMMU, of any kind; starts it on first use. On `intel-scalable` the
   * parameter `stage` selects the tables: `second` (the default) or `first`.
   * @throws Error if this VM has no vIOMMU, or for another `stage`
   */
  iommu(): Promise<GuestIommu> {
    return this.#parts.iommu.iommu();
  }

  /** Returns a domain of {@link iommu} or {@link virtioIommu} by ID; after a migration this finds the old domains. */
  domain(id: number): GuestDomain | undefined {
    return this.#parts.iommu.findDomain(id);
  }

  /**
   * Resolves to the guest's virtio-iommu driver; starts it on first use.
   * @throws Error if this VM has no virtio-iommu
   */
  virtioIommu(): Promise<VirtioIommuDriver> {
    return this.#parts.iommu.virtioIommu();
  }

  /** Returns the vIOMMU's bare registers, for a script that is its own driver or breaks the rules on purpose. */
  iommuRegisters(): RegisterPort {
    this.#hasOwnDriver = true;
    return this.#parts.iommu.registers();
  }

  /** Names the current phase of the script, for progress and trace. */
  async phase(name: string): Promise<void> {
    await this.#control.phase(boundedText(name, PHASE_LIMIT));
  }

  /** Has no effect, because the run sees the counters at once. Kept for scripts of version 0.1. */
  async progress(): Promise<void> {}

  /** Adds a line to the report. Of each VM 32 lines are kept, with 1000 characters each; the rest is counted. */
  note(text: string): void {
    if (!this.#journal.append(JournalLine.note, boundedText(text))) this.#journal.add('notesCut', 1);
  }

  /** Announces one DMA fault of this device in the page of `iova`. A fault that was not announced fails the run. */
  async expectFault(device: GuestDmaDevice, iova: Iova): Promise<void> {
    await this.#control.expectFault(device.index, iova);
  }

  /** Runs `work`, in which a DMA fault of this device in the page of `iova` may occur or not: it does not fail the run. */
  async allowFault<Result>(device: GuestDmaDevice, iova: Iova, work: () => Promise<Result>): Promise<Result> {
    await this.#control.allowFault(device.index, iova, true);
    try {
      return await work();
    } finally {
      await this.#control.allowFault(device.index, iova, false);
    }
  }

  /**
   * Announces that the host removes this device while the VM uses it. The device is then lost without a failure of the
   * run; an announced removal that does not occur fails the run. The announcement moves with the VM.
   */
  async expectRemoval(device: GuestDmaDevice): Promise<void> {
    await this.#control.expectRemoval(device.index);
  }

  /**
   * Compares every container with the guest's tables. Resolves to the count of differences; those that the guest has
   * not announced are violations. Changes by calls in flight are not: the audit waits for these calls.
   */
  audit(): Promise<number> {
    return this.#audits.run(async () => {
      if ((await this.#control.beginAudit()) > 0) {
        await endOfCalls();
        // In this thread, so that a guest that gets little time has as much more of it.
        if (this.#hasOwnDriver) await sleep(ANNOUNCE_MS);
      }
      return this.#control.endAudit();
    });
  }

  /**
   * Sets policy and time slice of the physical GPUs, from the next turn on. This is a setting of the host process: it
   * applies to all its VMs.
   * @throws RangeError for an invalid policy or slice
   */
  async schedule(scheduling: Scheduling): Promise<void> {
    await this.#control.schedule(scheduling);
  }

  /** Resolves to the engine statistics of every vGPU of this host process; see usageBetween. */
  gpuStats(): Promise<readonly VgpuStats[]> {
    return Promise.resolve(this.#control.gpuStats());
  }

  /**
   * Runs `work` for every vGPU that is alive, concurrently. A device that is lost meanwhile is noted and does not
   * reject.
   * @throws any other error of `work`
   */
  async eachGpu(work: (gpu: GuestGpu) => Promise<void>): Promise<void> {
    await Promise.all(this.gpus.map((gpu) => this.#run(gpu, () => gpu.driver.alive, work)));
  }

  /** Does as {@link eachGpu} for {@link devices}. */
  async eachDevice(work: (device: GuestPciDevice) => Promise<void>): Promise<void> {
    await Promise.all(this.devices.map((device) => this.#run(device, () => device.alive, work)));
  }

  /** Runs `work`, a switch of address spaces, and records its duration. */
  async timedSwitch(work: () => Promise<void>): Promise<void> {
    const since = nowUs();
    await work();
    const us = nowUs() - since;
    this.latencies.recordUs('switch', us);
    this.metrics.trend('switch_latency').add(us);
  }

  /**
   * Puts a device into a new domain: maps as {@link mapIdentity}, attaches the device, and directs its DMA API to the
   * domain. The device is translated as long as `iommu.enableTranslation()` is in effect.
   * @throws Error if this VM has no vIOMMU; the errors of its driver
   */
  async translate(device: GuestDmaDevice, extra: readonly Gpa[] = []): Promise<GuestDomain> {
    const iommu = await this.iommu();
    const domain = iommu.createDomain();
    await this.mapIdentity(domain, device, extra);
    await iommu.attach(device.requesterId, domain);
    device.dma.setDomain(domain);
    return domain;
  }

  /**
   * Maps the pages `extra`, and those that the driver shares with its device, at IOVA = GPA. A device that uses them
   * continues to work while its address space is switched.
   */
  async mapIdentity(domain: DmaDomain, device: GuestDmaDevice, extra: readonly Gpa[] = []): Promise<void> {
    const shared = 'driver' in device ? device.driver.staticPages : [];
    await domain.mapAll(
      [...shared, ...extra].map((gpa) => ({ iova: toIova(gpa), gpa, size: PAGE_SIZE, perm: PERM_RW })),
    );
  }

  /**
   * Moves this VM to another host process while it and its devices work. The script ends here with VmMovedError,
   * which is not a failure; the scenario's `resume(vm, state)` starts at the other host.
   * @throws MigrationError, or the error of `work`, if the VM stays; the script may continue
   */
  migrate(options: MigrateOptions = {}): Promise<never> {
    if (!this.migratable) throw new MigrationError('the scenario has no resume(vm, state)');
    const { gate } = this.#parts;
    return migrate({ ram: this.ram, gate, save: () => this.save() }, this.#control, options).catch(
      (error) => {
        if (error instanceof VmMovedError) {
          this.latencies.recordUs('downtime', error.stats.downtimeUs);
          this.metrics.trend('migration_downtime').add(error.stats.downtimeUs);
        }
        throw error;
      },
    );
  }

  /**
   * Returns what the drivers know beside guest RAM and the hardware, for {@link GuestTask.snapshot}. The report of
   * this host (operations, checks, latencies, notes) is not part of it.
   * @throws InFlightError naming what is in flight, GuestStateError for a device in a domain of a script's own driver
   */
  save(): SavedGuest {
    const { prng, lowPages, pages, iovas, iommu } = this.#parts;
    iommu.expectIdle();
    for (const device of this.devices) device.expectIdle();
    for (const device of this.#allDevices) device.dma.expectIdle(device.name);
    return {
      version: GUEST_STATE_VERSION,
      viommu: this.viommu,
      prng: prng.state,
      lowPages: lowPages.save(),
      pages: pages.save(),
      iovas: iovas.save(),
      devices: this.#allDevices.map((device) => ({
        name: device.name,
        domain: idOf(device.dma.domain, iommu.findDomain),
        driver: 'driver' in device ? device.driver.save() : null,
        lost: this.#lost.has(device),
      })),
      ...iommu.save(),
    };
  }

  /** Returns a buffer of a DMA API as JSON, for the script's own state. @throws GuestStateError as {@link save} */
  saveBuffer(buffer: DmaBuffer): SavedDmaBuffer {
    return saveBuffer(buffer, this.#parts.iommu.findDomain);
  }

  /** Returns the buffer of {@link saveBuffer} at the other host. @throws GuestStateError for an unknown domain */
  restoreBuffer(saved: SavedDmaBuffer): DmaBuffer {
    return restoreBuffer(saved, this.#parts.iommu.findDomain);
  }

  /** Closes the gate at which every driver call waits, or opens it: the host pauses the VM, or lets it continue. */
  setPaused(paused: boolean): void {
    const { gate } = this.#parts;
    if (paused) gate.close();
    else gate.open();
  }

  /** Waits `ms` milliseconds; longer while the VM is paused. */
  async sleep(ms: number): Promise<void> {
    await sleep(ms);
    await this.#parts.gate.pending;
  }

  /** Returns what is not in the journal of a script that has ended; `error` is empty if it succeeded. */
  report(error: string): GuestReport {
    return {
      histograms: this.latencies.encode(),
      deviceHistograms: this.#parts.deviceLatencies.map((latencies) => latencies.encode()),
      error,
    };
  }

  get #allDevices(): readonly GuestDmaDevice[] {
    return [...this.gpus, ...this.devices];
  }

  async #start(device: GuestDmaDevice, start: () => Promise<void>): Promise<void> {
    if (startsAtBoot(this.viommu)) await this.iommu();
    try {
      await start();
    } catch (error) {
      if (!(error instanceof DeviceLostError)) throw error;
      this.#noteLost(device);
    }
  }

  async #run<Device extends GuestDmaDevice>(
    device: Device,
    isAlive: () => boolean,
    work: (device: Device) => Promise<void>,
  ): Promise<void> {
    try {
      if (isAlive()) await work(device);
    } catch (error) {
      if (!(error instanceof DeviceLostError)) throw error;
    }
    if (!isAlive()) this.#noteLost(device);
  }

  #noteLost(device: GuestDmaDevice): void {
    if (this.#lost.has(device)) return;
    this.#lost.add(device);
    this.note(`VM ${this.id}: ${device.name} is lost; the other devices continue`);
  }
}
