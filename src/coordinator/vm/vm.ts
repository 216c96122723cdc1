/**
 * One VM: guest RAM, vIOMMU, devices and guest, and the order in which they start, fail and end.
 */
import { nowUs, Prng, wallMs } from '#host';
import { MigrationState } from '../../device/migration/states.ts';
import { MigrationError, migrationLines } from '../../guest/migration-settings.ts';
import type { GuestReport, GuestSnapshot, VmControl } from '../../guest/protocol.ts';
import { hex, type Iova } from '../../memory/address.ts';
import { GuestRam } from '../../memory/guest-ram.ts';
import { requesterId } from '../../pci/config-space.ts';
import { decodeFrame, encodeFrame, type Frame, type FrameHeader, type FrameKind } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { createViommu } from '../../viommu/create-viommu.ts';
import type { VIommu } from '../../viommu/viommu.ts';
import type { Placement } from '../gpu-pool.ts';
import { modelAt, usesGpu } from '../model-names.ts';
import { DEFAULT_MODEL } from '../workers/supervisor.ts';
import type { VmConfig, VmContext } from './config.ts';
import { type DeviceOwner, STOP_TIMEOUT_MS, stopDevices, VmDevice } from './device.ts';
import { GuestWorker } from './guest-worker.ts';
import { IommuRegisters } from './iommu-registers.ts';
import type { ArrivingVm } from './migration/incoming.ts';
import { type MigratableVm, VmMigration } from './migration/migration.ts';
import { vmResult } from './result.ts';
import { VmVerdict } from './verdict.ts';
import { deviceTask, guestTask, type VmParts } from './worker-tasks.ts';

/** Frames served per turn: one device must not starve the others. */
const BURST = 64;

/** Spreads a VM's seed over the hosts it has been at: the host frames behind its RAM are others at each. */
const MIGRATION_STRIDE = 104_729;

export class Vm implements DeviceOwner, MigratableVm, ArrivingVm, VmParts {
  readonly config: VmConfig;
  readonly ram: GuestRam;
  readonly devices: VmDevice[];
  readonly verdict = new VmVerdict();
  readonly context: VmContext;
  readonly iommu: VIommu;
  /** The devices' slots at physical GPUs, by index; undefined for those that have no use for one. */
  readonly #slots: readonly (Placement | undefined)[];
  readonly #registers: IommuRegisters;
  readonly #migration: VmMigration;
  #guest: GuestWorker | undefined;
  #goesOn: () => void = () => {};
  #since = nowUs();
  #started: Promise<unknown> = Promise.resolve();
  readonly #releases: Promise<void>[] = [];
  #ending = false;
  #audits = 0;
  #phase = 'start';
  #operations = 0;
  #bytesVerified = 0;

  constructor(config: VmConfig, context: VmContext) {
    this.config = config;
    this.context = context;
    const half = config.ramBytes / 2;
    const frames = new Prng(config.seed + config.migrations * MIGRATION_STRIDE);
    this.ram = GuestRam.allocate(config.hpaBase, half, half, frames);
    this.iommu = createViommu(config.viommu, this.ram);
    this.#migration = new VmMigration(this, context.hosts);
    this.#registers = new IommuRegisters(this.iommu, {
      again: () => context.reschedule(context.firstBit),
      violation: (kind, detail) => this.#violation(-1, kind, detail),
    });
    this.devices = Array.from({ length: config.vgpus }, (_, index) => this.#makeDevice(index));
    this.#slots = this.devices.map(({ name, link }, index) =>
      usesGpu(modelAt(config.model, index))
        ? context.gpus.place(name, index, link.sab, config.mdevTypes[index])
        : undefined,
    );
  }

  get progress() {
    return { phase: this.#phase, operations: this.#operations, bytesVerified: this.#bytesVerified };
  }

  /** Puts every device behind the vIOMMU and starts its worker; resolves when all are ready or have failed. */
  async startDevices(): Promise<void> {
    this.#started = Promise.all(this.devices.map((device) => this.#startDevice(device)));
    await this.#started;
  }

  /** Starts the guest's worker and has it load the script. */
  async loadGuest(): Promise<void> {
    const task = guestTask(this, this.devices, this.#registers.mmio);
    const { timeoutMs } = this.config;
    const entry = this.context.workers.guest;
    this.#guest = new GuestWorker({ entry, task, control: this.#control(), timeoutMs });
    await this.#guest.load();
  }

  /** Runs the guest's script to its end, or to its VM's departure, stops the devices, and sums up. */
  async runGuest(snapshot?: GuestSnapshot): Promise<FrameBodies['vmResult']> {
    if (!this.#guest) await this.loadGuest();
    const report = await (this.#guest as GuestWorker).run(snapshot);
    this.#goesOn();
    return this.#end(report);
  }

  async #end(report: GuestReport): Promise<FrameBodies['vmResult']> {
    const { moved, lost } = this.#migration;
    this.#record('guestDone', -1, { error: report.error });
    await this.#registers.settle();
    if (report.error === '' && !moved && lost === '') this.#audit();
    await this.#stopDevices();
    const result = vmResult(report, {
      devices: this.devices,
      ledger: this.verdict,
      audits: this.#audits,
      operations: this.#operations,
      bytesVerified: this.#bytesVerified,
      migration: moved && migrationLines(this.config.vm, moved),
    });
    return lost === ''
      ? result
      : { ...result, scriptError: `the VM was handed over and not taken on: ${lost}` };
  }

  /** What the other host is to build. The rest of the script's time goes along. */
  configFor(host: number): string {
    const { config } = this;
    const timeoutMs = Math.max(1, Math.ceil(config.timeoutMs - (nowUs() - this.#since) / 1000));
    return JSON.stringify({ ...config, timeoutMs, process: host, migrations: config.migrations + 1 });
  }

  settle(): Promise<void> {
    return this.#registers.settle();
  }

  async load(iommuState: Uint8Array): Promise<void> {
    if (!this.iommu.restore) throw new MigrationError(`the vIOMMU '${this.iommu.name}' cannot be migrated`);
    // The devices' streams first: one that is not complete ends the migration before anything is mapped.
    await Promise.all(this.devices.map(({ control }) => control.setState(MigrationState.STOP)));
    this.iommu.restore(iommuState);
    for (const device of this.devices) await this.iommu.attach(device.space);
  }

  /** Has devices and guest go on where they stopped at the other host. Resolves when the script runs. */
  async resume(snapshot: GuestSnapshot): Promise<void> {
    await Promise.all(this.devices.map(({ control }) => control.setState(MigrationState.RUNNING)));
    const goesOn = new Promise<void>((resolve) => {
      this.#goesOn = resolve;
    });
    this.context.arrived(this, this.runGuest(snapshot));
    await goesOn;
  }

  /** It does not come after all: its devices and its guest's worker go. */
  async discard(): Promise<void> {
    await this.#guest?.end();
    await this.#stopDevices();
  }

  /** Serves the vIOMMU's register ring. */
  serveIommu(): void {
    this.#registers.serve();
  }

  /** Serves the control frames of one device. */
  serveDevice(index: number): void {
    const device = this.devices[index];
    if (device?.failure !== '') return;
    try {
      for (let served = 0; served < BURST; served++) {
        const bytes = device.link.fromDevice.shift();
        if (!bytes) return;
        this.context.trace(bytes);
        this.#handle(device, decodeFrame(bytes));
      }
      this.context.reschedule(this.context.firstBit + 1 + index);
    } catch (error) {
      // A device that writes garbage into its ring is lost; the coordinator and the others are not.
      const detail = error instanceof Error ? error.message : String(error);
      void this.quarantine(device, 'bad-frame', `sent garbage (${detail})`);
    }
  }

  header(device: number): FrameHeader {
    return { timeUs: wallMs() * 1000, process: this.config.process, vm: this.config.vm, device };
  }

  sent(bytes: Uint8Array): void {
    this.context.trace(bytes);
  }

  switched(device: VmDevice, what: FrameBodies['addressSpaceSwitch']): void {
    this.#record('addressSpaceSwitch', device.index, what);
  }

  /**
   * The host takes a device away while the VM uses it (vfio's device request): it is stopped and closed, whatever the
   * guest is doing with it. Resolves to false if the VM is at its end, which closes the device as well.
   */
  async release(index: number, uuid: string): Promise<boolean> {
    const device = this.devices[index];
    if (!device || this.#ending) return false;
    const released = this.#release(device, uuid);
    this.#releases.push(released);
    await released;
    return true;
  }

  async quarantine(device: VmDevice, kind: string, detail: string): Promise<void> {
    if (device.failure !== '') return;
    this.#violation(device.index, kind, `${device.name} ${detail}: quarantined`);
    device.failure = `quarantined: ${detail}`;
    await device.run?.terminate();
    this.#failed(device, device.failure);
  }

  async #release(device: VmDevice, uuid: string): Promise<void> {
    await this.#started;
    if (device.failure !== '') return;
    await stopDevices([device]);
    // A device that has reported touches no memory any more; one that has not must be ended.
    if (!device.report) await device.run?.terminate();
    if (device.failure === '')
      this.#failed(device, `surprise removal: mdev ${uuid} was taken away while the VM used it`);
  }

  #makeDevice(index: number): VmDevice {
    const { vm, model } = this.config;
    const kind = model === DEFAULT_MODEL ? 'gpu' : 'dev';
    return new VmDevice(
      index,
      `vm${vm}/${kind}${index}`,
      requesterId(0, index + 1, 0),
      this.ram,
      this,
      this.iommu.windowed,
    );
  }

  async #startDevice(device: VmDevice): Promise<void> {
    // One that comes from another host is attached when its vIOMMU knows what it knew there.
    if (this.config.migrations === 0) await this.iommu.attach(device.space);
    const ready = new Promise<void>((resolve) => this.#whenReady.set(device.index, resolve));
    const run = await this.context.supervisor.start(deviceTask(this, device, this.#slots[device.index]));
    device.run = run;
    run.ended.then(
      () => this.#whenReady.get(device.index)?.(),
      (error: Error) => {
        this.serveDevice(device.index); // what it said before it ended
        // One that has reported had stopped: what its thread does then is nobody's loss.
        if (device.failure === '' && !device.report) this.#failed(device, `worker ended: ${error.message}`);
        this.#whenReady.get(device.index)?.();
      },
    );
    await ready;
  }

  readonly #whenReady = new Map<number, () => void>();

  #handle(device: VmDevice, frame: Frame): void {
    if (frame.kind === 'deviceReady') {
      device.run?.ready(frame.body.threadId);
      this.#whenReady.get(device.index)?.();
    } else if (frame.kind === 'dmaFault') this.#fault(device, frame.body);
    else if (frame.kind === 'violation')
      this.verdict.violation(frame.body.kind, `${device.name} ${frame.body.detail}`, frame.body.repeats);
    else if (frame.kind === 'deviceReport') device.report = frame.body;
    else if (frame.kind === 'deviceLog') device.addLog(frame.body);
    else device.control.answered(frame);
  }

  /** A device's DMA found no mapping: the vIOMMU says why, and records it (R8). */
  #fault(device: VmDevice, { iova, write }: FrameBodies['dmaFault']): void {
    const answer = this.iommu.translate(device.requesterId, iova as Iova, write);
    const { reason, text } = answer.ok
      ? { reason: 0, text: this.#whyUnmapped(answer.gpa) }
      : { reason: answer.reason, text: answer.text };
    const record = { requesterId: device.requesterId, iova: iova as Iova, write, reason, text };
    device.link.acknowledgeFault();
    const expected = this.verdict.fault(device.index, record);
    this.#record('faultRecorded', device.index, { ...record, expected });
  }

  #whyUnmapped(gpa: number): string {
    if (!this.ram.contains(gpa, 1)) return `(${hex(gpa)} is not guest RAM)`;
    return '(the tables translate it, but no invalidation has announced that)';
  }

  #failed(device: VmDevice, reason: string): void {
    this.verdict.deviceLost(device.index);
    const pinsReleased = device.fail(reason);
    this.#releaseSlot(device);
    if (pinsReleased > 0) device.failure = `${reason} (${pinsReleased} pins released)`;
    this.#record('deviceFailed', device.index, { reason, pinsReleased });
  }

  #releaseSlot({ index }: VmDevice): void {
    const placement = this.#slots[index];
    placement?.gpu.release(placement.slot);
  }

  #audit(): number {
    this.#audits++;
    let differences = 0;
    for (const device of this.devices) {
      if (!device.alive) continue;
      for (const { iova, size, held, expected } of device.space.audit()) {
        differences++;
        const text = (gpa: number | undefined) => (gpa === undefined ? 'nothing' : hex(gpa));
        this.#violation(
          device.index,
          'missed-invalidation',
          `${device.name} IOVA ${hex(iova)} +${hex(size)}: container maps ${text(held)}, ` +
            `the guest's tables say ${text(expected)}`,
        );
      }
    }
    return differences;
  }

  async #stopDevices(): Promise<void> {
    this.#ending = true;
    await Promise.all(this.#releases);
    const running = this.devices.filter((device) => device.run && device.failure === '');
    await stopDevices(running);
    for (const device of running) {
      if (!device.report && device.failure === '')
        await this.quarantine(device, 'did-not-stop', `was still running ${STOP_TIMEOUT_MS} ms after stop`);
      device.link.mmioServer().close();
      if (device.failure === '') this.#releaseSlot(device);
      const pins = device.failure === '' ? device.container.pins() : 0;
      if (pins > 0)
        this.#violation(device.index, 'leaked-pins', `${device.name} stopped and left ${pins} pins`);
    }
  }

  #violation(device: number, kind: string, detail: string): void {
    this.verdict.violation(kind, detail);
    this.#record('violation', device, { kind, detail, repeats: 0 });
  }

  /** Traces something that the coordinator itself has to say. */
  #record<K extends FrameKind>(kind: K, device: number, body: FrameBodies[K]): void {
    this.context.trace(encodeFrame(this.header(device), kind, body));
  }

  #control(): VmControl {
    return {
      phase: (name) => {
        this.#phase = name;
        this.#record('guestPhase', -1, { name });
      },
      progress: (operations, bytesVerified) => {
        this.#operations = operations;
        this.#bytesVerified = bytesVerified;
      },
      expectFault: (device, iova) => this.verdict.expectFault(device, iova),
      audit: () => this.#audit(),
      schedule: (scheduling) => this.context.gpus.schedule(scheduling),
      gpuStats: () => this.context.gpus.stats(),
      resumed: () => this.#goesOn(),
      beginMigration: async (settings) => this.#migration.begin(settings),
      copyMemory: () => this.#migration.copy(),
      handOver: (state, pausedUs) => this.#migration.handOver(state, pausedUs),
      giveUpMigration: (reason) => this.#migration.abort(reason),
    };
  }
}
