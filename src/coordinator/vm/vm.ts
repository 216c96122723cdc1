/**
 * One VM: guest RAM, vIOMMU, devices and guest, and the order in which they start, fail and end.
 */
import { nowUs, Prng } from '#host';
import { GuestJournal } from '../../channel/guest-journal.ts';
import { MigrationState } from '../../device/migration/states.ts';
import { MigrationError, migrationLines } from '../../guest/migration-settings.ts';
import type { GuestSnapshot } from '../../guest/protocol.ts';
import { GuestRam } from '../../memory/guest-ram.ts';
import type { FrameHeader } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { boundedText } from '../../report/text.ts';
import { createViommu } from '../../viommu/create-viommu.ts';
import type { VIommu } from '../../viommu/viommu.ts';
import { closeDevices, unmapEverything } from './close-devices.ts';
import { configAt, type VmConfig, type VmContext } from './config.ts';
import { createDevices, type DeviceOwner, type VmDevice } from './device.ts';
import { DeviceFrames } from './device-frames.ts';
import { DeviceRemovals } from './device-removals.ts';
import { DeviceSlots } from './device-slots.ts';
import { GuestControl } from './guest-control.ts';
import { GuestLives, type RebootSettings } from './guest-lives.ts';
import { type GuestOutcome, GuestWorker, NOT_STARTED } from './guest-worker.ts';
import { IommuRegisters } from './iommu-registers.ts';
import type { ArrivingVm } from './migration/incoming.ts';
import { type MigratableVm, VmMigration } from './migration/migration.ts';
import { resetPlatform } from './platform-reset.ts';
import { lostResult, type VmProgress, vmProgress, vmResult } from './result.ts';
import { type Expectations, VmVerdict } from './verdict.ts';
import { vgpuResults } from './vgpu-result.ts';
import { VmPause } from './vm-pause.ts';
import { VmSampler } from './vm-sampler.ts';
import { NO_DEVICE, VmTrace } from './vm-trace.ts';
import { deviceTask, guestTask, type VmParts } from './worker-tasks.ts';

/** Changes a VM's seed with each migration, so that other host frames back its RAM on each host. */
const MIGRATION_STRIDE = 104_729;

export class Vm implements DeviceOwner, MigratableVm, ArrivingVm, VmParts {
  readonly config: VmConfig;
  readonly ram: GuestRam;
  readonly devices: VmDevice[];
  readonly verdict = new VmVerdict();
  readonly journal = new GuestJournal();
  readonly context: VmContext;
  iommu: VIommu;
  readonly sampler: VmSampler;
  readonly #slots: DeviceSlots;
  readonly #registers: IommuRegisters;
  readonly #migration: VmMigration;
  readonly #trace: VmTrace;
  readonly #control: GuestControl;
  readonly #lives: GuestLives;
  /** Resolves to a PNG of what a device displays; see {@link GuestWorker.screenshot}. */
  readonly screenshot = (device: number) => this.#lives.worker?.screenshot(device);
  #onResumed: () => void = () => {};
  readonly #startUs = nowUs();
  /** Settles when the devices have started or failed. */
  started: Promise<unknown> = Promise.resolve();
  /** Device index → function to call when the device is ready or has failed. */
  readonly #whenReady = new Map<number, () => void>();
  readonly #removals = new DeviceRemovals(this);
  /** Its pause by the host. */
  readonly pauses = new VmPause(this, () => this.#lives.worker);
  readonly #frames: DeviceFrames;
  #ending = false;
  #isCrashed = false;
  /** State of a load that its last guest has left, as JSON; or empty. */
  loadState = '';
  /** Why the VM is lost, or empty. */
  #lost = '';

  constructor(config: VmConfig, context: VmContext) {
    this.config = config;
    this.context = context;
    this.#trace = new VmTrace(config, context, this.verdict);
    this.#frames = new DeviceFrames(this, this.#trace);
    const half = config.ramBytes / 2;
    const frames = new Prng(config.seed + config.migrations * MIGRATION_STRIDE);
    this.ram = GuestRam.on((size) => context.slabs.take(config.hpaBase, size), half, half, frames);
    this.iommu = createViommu(config.viommu, this.ram);
    this.#migration = new VmMigration(this, context.hostSocket);
    this.#registers = new IommuRegisters(this.iommu, {
      reschedule: () => context.reschedule(context.firstBit),
      violation: (kind, detail) => this.#trace.violation(NO_DEVICE, kind, detail),
      lose: (error) => this.lose(error),
    });
    this.devices = createDevices(config, this, this.iommu.windowed);
    this.#lives = new GuestLives({
      createWorker: (loadState) => this.#createWorker(loadState),
      resetPlatform: (settings) => {
        this.verdict.guestGone();
        return resetPlatform(this, settings);
      },
    });
    this.#control = new GuestControl({
      devices: this.devices,
      verdict: this.verdict,
      migration: this.#migration,
      trace: this.#trace,
      gpus: context.gpus,
      quiesce: (work) => this.#quiesce(work),
      load: context.load,
      number: config.vm,
      onResumed: () => this.#onResumed(),
    });
    this.#slots = new DeviceSlots(context.gpus, this.devices, config);
    this.sampler = new VmSampler(this.devices, this.#slots.all, (placement) =>
      context.gpus.statsOf(placement),
    );
    for (const [index, reason] of config.lostDevices.entries())
      if (reason !== '') this.#arriveLost(this.devices[index] as VmDevice, reason);
  }

  /** True while the VM runs here: it is neither ending nor handed over to another host. */
  get isHere(): boolean {
    return !this.#ending && !this.#migration.handedOver && this.#migration.lost === '';
  }

  /** True when every thread of the devices has ended by itself: nothing can reach the VM's host memory any more. */
  get isClosed(): boolean {
    return this.#ending && this.devices.every(({ run, report }) => !run || report);
  }

  /** The guest's phase and counters as they are now. */
  get progress(): VmProgress {
    return vmProgress(this.#control.currentPhase, this.journal);
  }

  /** Attaches every device to the vIOMMU and starts its worker; resolves when all are ready or have failed. */
  async startDevices(): Promise<void> {
    const present = this.devices.filter(({ failure }) => failure === '');
    this.started = Promise.all(present.map((device) => this.#startDevice(device)));
    await this.started;
  }

  /** Starts the guest's worker and has it load the script. */
  loadGuest(): Promise<void> {
    return this.#lives.load();
  }

  #createWorker(loadState: string): GuestWorker {
    const task = guestTask(this, this.devices, this.#registers.mmio, loadState || this.config.loadState);
    const { timeoutMs } = this.config;
    const entry = this.context.workers.guest;
    return new GuestWorker({ entry, task, control: this.#control, timeoutMs });
  }

  /**
   * Runs the guest's script until it ends or the VM has migrated, then stops the devices. Resolves to the VM's result,
   * also if the script fails or the VM is lost. Never rejects.
   */
  async runGuest(snapshot?: GuestSnapshot): Promise<FrameBodies['vmResult']> {
    try {
      const outcome = await this.#lives.run(snapshot);
      this.#onResumed();
      return await this.#end(outcome);
    } catch (error) {
      this.lose(error);
      await this.discard().catch(() => {}); // the first error is the reason
      return lostResult(this.#lost);
    } finally {
      this.#onResumed();
    }
  }

  /** Ends the VM because of an error of the coordinator. Its result has the reason; other VMs continue. */
  lose(error: unknown): void {
    this.#lost ||= String(error);
    for (const ready of this.#whenReady.values()) ready(); // devices that start are not waited for
    this.abort();
  }

  /** Ends the stages of the guest's declared load. */
  stopLoad(): void {
    void this.pauses.end();
    void this.#lives.worker?.stopLoad();
  }

  /** Moves the VM, which is under declared load, to another host process. Resolves to why it stays, or to ''. */
  async move(to: number | undefined): Promise<string> {
    const error = (await this.#lives.worker?.migrate(to)) ?? 'the VM is starting; accepted: a running VM';
    return this.#migration.moved ? '' : error || 'the VM has ended';
  }

  /** Resets the platform and boots the guest again. Resolves to why it does not, or to ''. */
  reboot(settings: RebootSettings): Promise<string> {
    if (this.#migration.isActive) return Promise.resolve('the VM migrates; accepted: a running VM');
    return this.#lives.reboot(settings);
  }

  /**
   * Ends the guest between two instructions, and closes the VM while its devices work, as a host does whose VMM was
   * killed. {@link runGuest} resolves when all is closed.
   */
  crash(): void {
    this.#isCrashed = true;
    this.verdict.guestGone(true);
    this.#lives.close('crash');
  }

  /** Has the guest let go of its devices, and closes the VM. {@link runGuest} resolves when all is closed. */
  shutDown(): void {
    this.#lives.close('shutdown');
  }

  /** Ends the guest in order, because the run is interrupted. The VM's result has what was done. */
  interrupt(): void {
    void this.pauses.end();
    this.#lives.interrupt();
  }

  /** Ends the guest's script wherever it is. */
  abort(): void {
    this.#lives.abort();
  }

  async #end(outcome: GuestOutcome): Promise<FrameBodies['vmResult']> {
    const { moved, lost } = this.#migration;
    this.#trace.record('guestDone', NO_DEVICE, { error: outcome.error });
    await this.#migration.guestEnded();
    await this.#registers.settle();
    this.loadState = outcome.load ?? '';
    if (this.#isCrashed) await unmapEverything(this.devices);
    else if (outcome.error === '' && !outcome.interrupted && !moved && lost === '')
      await this.#control.audit.last();
    // Devices of a guest that was not started may themselves still be starting; they end with the process.
    if (outcome !== NOT_STARTED || this.#lost !== '') await this.#stopDevices();
    if (lost !== '') this.#lost ||= `it was lost during its migration, after the hand-over: ${lost}`;
    return vmResult(outcome, {
      vm: this.config.vm,
      devices: this.devices,
      journal: this.journal.read(),
      verdict: this.verdict,
      audits: this.#control.audit.count,
      migration: moved && migrationLines(this.config.vm, moved),
      vgpus: vgpuResults({
        models: this.config.model,
        devices: this.devices,
        slots: this.#slots.all,
        outcome,
        statsOf: (placement) => this.context.gpus.statsOf(placement),
      }),
      lost: this.#lost,
    });
  }

  /** Returns the VM's configuration for another host, as JSON, with the rest of the script's time. */
  configFor(host: number): string {
    return JSON.stringify(configAt(host, this.config, this.devices, nowUs() - this.#startUs));
  }

  expectations(): string {
    return JSON.stringify(this.verdict.expectations);
  }

  async resetIommu(): Promise<void> {
    this.iommu = createViommu(this.config.viommu, this.ram);
    this.#registers.replace(this.iommu);
    for (const device of this.devices) await this.iommu.attach(device.space);
  }

  settle(): Promise<void> {
    return this.#registers.settle();
  }

  async #quiesce(work: () => void): Promise<void> {
    await this.#registers.serveAll();
    await this.iommu.quiesce(work);
  }

  async load(iommuState: Uint8Array, expectations: string): Promise<void> {
    if (!this.iommu.restore) throw new MigrationError(`the vIOMMU '${this.iommu.name}' cannot be migrated`);
    // The devices first: an incomplete device stream must end the migration before anything is mapped.
    const present = this.devices.filter(({ loss }) => loss !== 'earlier');
    await Promise.all(present.map(({ control }) => control.setState(MigrationState.STOP)));
    this.verdict.expectations = JSON.parse(expectations) as Expectations;
    this.iommu.restore(iommuState);
    for (const device of this.devices) await this.iommu.attach(device.space);
  }

  /** Continues devices and guest where they stopped on the other host. Resolves when the script runs. */
  async resume(snapshot: GuestSnapshot): Promise<void> {
    const present = this.devices.filter(({ failure }) => failure === '');
    const restart = (device: VmDevice) =>
      device.control
        .setState(MigrationState.RUNNING)
        .catch((error: Error) => this.quarantine(device, 'did-not-resume', error.message));
    await Promise.all(present.map(restart));
    const resumed = new Promise<void>((resolve) => {
      this.#onResumed = resolve;
    });
    this.context.arrived(this, this.runGuest(snapshot));
    await resumed;
  }

  /** Ends a VM whose migration to this host has failed: stops its devices and its guest's worker. */
  async discard(): Promise<void> {
    await this.#lives.worker?.end();
    await this.#stopDevices();
  }

  /** Serves the vIOMMU's register ring. */
  serveIommu(): void {
    this.#registers.serve();
  }

  /** Serves the control frames of one device. */
  serveDevice(index: number): void {
    const device = this.devices[index];
    if (device) this.#frames.serve(device);
  }

  /** Reports that a device is ready or has failed. */
  ready({ index }: VmDevice): void {
    this.#whenReady.get(index)?.();
  }

  header(device: number): FrameHeader {
    return this.#trace.header(device);
  }

  sent(bytes: Uint8Array): void {
    this.context.trace(bytes);
  }

  switched(device: VmDevice, what: FrameBodies['addressSpaceSwitch']): void {
    this.#trace.record('addressSpaceSwitch', device.index, what);
  }

  /**
   * Stops and closes a device because its host removes it while the VM uses it (VFIO's device request). Resolves to false
   * if the VM is ending, which closes the device as well, or is handed over: the other host then gets the request.
   */
  async release(index: number, uuid: string): Promise<boolean> {
    const device = this.devices[index];
    if (!device || !this.isHere) return false;
    await this.#removals.remove(device, uuid);
    return true;
  }

  /** Never rejects: an error loses the VM. */
  async quarantine(device: VmDevice, kind: string, detail: string): Promise<void> {
    if (device.failure !== '') return;
    try {
      device.failure = `quarantined: ${detail}`;
      this.#trace.violation(device.index, kind, `${device.name} ${detail}: quarantined`);
      this.leaving(device, device.failure);
      await device.run?.terminate();
      this.failed(device, device.failure);
    } catch (error) {
      this.lose(error);
    }
  }

  /** Ends requests to a device and migrations that need it, because it is known to be lost. */
  leaving(device: VmDevice, reason: string): void {
    device.control.lost(reason);
    this.#migration.deviceLost(device.name, reason);
  }

  #arriveLost(device: VmDevice, reason: string): void {
    device.arriveLost(reason);
    this.verdict.deviceLost(device.index);
    this.#slots.release(device);
  }

  async #startDevice(device: VmDevice): Promise<void> {
    // A device from another host is attached after its vIOMMU's state has been restored.
    if (this.config.migrations === 0) await this.iommu.attach(device.space);
    const ready = new Promise<void>((resolve) => this.#whenReady.set(device.index, resolve));
    const run = await this.context.supervisor.start(deviceTask(this, device, this.#slots.all[device.index]));
    device.run = run;
    run.ended
      .catch((error: Error) => {
        this.serveDevice(device.index); // its last frames
        // A device that has reported had stopped, so the end of its thread is no failure.
        if (device.failure === '' && !device.report) this.failed(device, `worker ended: ${error.message}`);
      })
      .catch((error: unknown) => this.lose(error))
      .finally(() => this.ready(device));
    await ready;
  }

  /** Marks a device as failed, which no longer accesses memory. */
  failed(device: VmDevice, why: string): void {
    this.verdict.deviceLost(device.index);
    // A model may throw an error of any length.
    const reason = boundedText(why);
    this.#migration.deviceLost(device.name, reason);
    const pinsReleased = device.fail(reason);
    this.#slots.release(device);
    if (pinsReleased > 0) device.failure = `${reason} (${pinsReleased} pins released)`;
    this.#trace.record('deviceFailed', device.index, { reason, pinsReleased });
  }

  /** Ends the use of its physical GPUs, because the VM has ended here. */
  forgetGpus(): void {
    this.#slots.forget();
  }

  async #stopDevices(): Promise<void> {
    this.#ending = true;
    await this.#removals.settled();
    await closeDevices(this.devices, {
      quarantine: (...args) => this.quarantine(...args),
      releaseSlot: (device) => this.#slots.release(device),
      violation: (...args) => this.#trace.violation(...args),
    });
  }
}
