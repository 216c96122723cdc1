/**
 * One VM: guest RAM, vIOMMU, devices and guest, and the order in which they start, fail and end.
 */
import { Prng, wallMs } from '#host';
import { type Hpa, hex, type Iova } from '../address/address.ts';
import { decodeFrame, encodeFrame, type Frame, type FrameHeader, type FrameKind } from '../channel/codec.ts';
import type { FrameBodies } from '../channel/schema.ts';
import type { DeviceOptions } from '../device/model.ts';
import type { DeviceTask } from '../device/runtime.ts';
import type { SeatHandle } from '../gpu/seat.ts';
import type { GuestTask, VmControl } from '../guest/protocol.ts';
import { GuestRam } from '../host/guest-ram.ts';
import { requesterId } from '../pci/config-space.ts';
import type { VIommu } from '../viommu/viommu.ts';
import type { GpuPool, Placement } from './gpu-pool.ts';
import { runGuest } from './guest-host.ts';
import { IommuRegisters } from './iommu-registers.ts';
import { VmLedger } from './ledger.ts';
import { makeIommu } from './make-iommu.ts';
import { modelAt } from './models.ts';
import { DEFAULT_MODEL, type DeviceSupervisor } from './supervisor.ts';
import { type DeviceOwner, STOP_TIMEOUT_MS, stopDevices, VmDevice } from './vm-device.ts';
import { vmResult } from './vm-result.ts';

/** What a VM is made of. */
export interface VmConfig {
  readonly process: number;
  readonly vm: number;
  readonly vgpus: number;
  /** The devices' mdev types, by index. */
  readonly mdevTypes: readonly string[];
  readonly seed: number;
  readonly hpaBase: Hpa;
  readonly ramBytes: number;
  readonly viommu: string;
  readonly scenario: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly timeoutMs: number;
  /** Built-in device models' names, which the devices take in turn, or the URL of a user's file. */
  readonly model: string;
  /** That file's text without its types; empty to have each worker read the file. */
  readonly modelSource: string;
  /** How long a model may be busy with one call. */
  readonly deviceTimeoutMs: number;
  /** Deliberate fault for this VM, or empty. */
  readonly inject: string;
}

/** What the VM needs of the coordinator around it. */
export interface VmSurroundings {
  readonly doorbell: SharedArrayBuffer;
  readonly doorbellSenders: number;
  /** This VM's first number on the doorbell: its vIOMMU's, then one per device. */
  readonly firstBit: number;
  readonly supervisor: DeviceSupervisor;
  readonly gpus: GpuPool;
  readonly workers: { readonly guest: URL };
  trace(frame: Uint8Array): void;
  /** Something waits to be served outside the doorbell's turn. */
  again(bit: number): void;
}

/** Frames served per turn: one device must not starve the others. */
const BURST = 64;

export class Vm implements DeviceOwner {
  readonly config: VmConfig;
  readonly ram: GuestRam;
  readonly devices: VmDevice[];
  readonly ledger = new VmLedger();
  readonly #around: VmSurroundings;
  /** The vGPUs' seats, by index. */
  readonly #seats: readonly Placement[];
  readonly #iommu: VIommu;
  readonly #registers: IommuRegisters;
  #started: Promise<unknown> = Promise.resolve();
  readonly #releases: Promise<void>[] = [];
  #ending = false;
  #audits = 0;
  #phase = 'start';
  #operations = 0;
  #bytesVerified = 0;

  constructor(config: VmConfig, around: VmSurroundings) {
    this.config = config;
    this.#around = around;
    const half = config.ramBytes / 2;
    this.ram = GuestRam.allocate(config.hpaBase, half, half, new Prng(config.seed));
    this.#iommu = makeIommu(config.viommu, this.ram);
    this.#registers = new IommuRegisters(this.#iommu, {
      again: () => around.again(around.firstBit),
      violation: (kind, detail) => this.#violation(-1, kind, detail),
    });
    this.devices = Array.from({ length: config.vgpus }, (_, index) => this.#makeDevice(index));
    this.#seats = this.devices.map(({ name, link }, index) =>
      around.gpus.place(name, index, link.sab, config.mdevTypes[index]),
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

  /** Runs the guest's script to its end, stops the devices, and sums up. */
  async runGuest(): Promise<FrameBodies['vmResult']> {
    const report = await runGuest({
      entry: this.#around.workers.guest,
      task: this.#guestTask(),
      control: this.#control(),
      timeoutMs: this.config.timeoutMs,
    });
    this.#record('guestDone', -1, { error: report.error });
    await this.#registers.settle();
    if (report.error === '') this.#audit();
    await this.#stopDevices();
    return vmResult(report, {
      devices: this.devices,
      ledger: this.ledger,
      audits: this.#audits,
      operations: this.#operations,
      bytesVerified: this.#bytesVerified,
    });
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
        this.#around.trace(bytes);
        this.#handle(device, decodeFrame(bytes));
      }
      this.#around.again(this.#around.firstBit + 1 + index);
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
    this.#around.trace(bytes);
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
      this.#iommu.windowed,
    );
  }

  async #startDevice(device: VmDevice): Promise<void> {
    await this.#iommu.attach(device.space);
    const ready = new Promise<void>((resolve) => this.#whenReady.set(device.index, resolve));
    const run = await this.#around.supervisor.start(this.#deviceTask(device));
    device.run = run;
    run.ended.then(
      () => this.#whenReady.get(device.index)?.(),
      (error: Error) => {
        this.serveDevice(device.index); // what it said before it ended
        if (device.failure === '') this.#failed(device, `worker ended: ${error.message}`);
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
      this.ledger.violation(frame.body.kind, `${device.name} ${frame.body.detail}`, frame.body.repeats);
    else if (frame.kind === 'deviceReport') device.report = frame.body;
    else if (frame.kind === 'deviceLog') device.addLog(frame.body);
  }

  /** A device's DMA found no mapping: the vIOMMU says why, and records it (R8). */
  #fault(device: VmDevice, { iova, write }: FrameBodies['dmaFault']): void {
    const answer = this.#iommu.translate(device.requesterId, iova as Iova, write);
    const { reason, text } = answer.ok
      ? { reason: 0, text: this.#whyUnmapped(answer.gpa) }
      : { reason: answer.reason, text: answer.text };
    const record = { requesterId: device.requesterId, iova: iova as Iova, write, reason, text };
    device.link.acknowledgeFault();
    const expected = this.ledger.fault(device.index, record);
    this.#record('faultRecorded', device.index, { ...record, expected });
  }

  #whyUnmapped(gpa: number): string {
    if (!this.ram.contains(gpa, 1)) return `(${hex(gpa)} is not guest RAM)`;
    return '(the tables translate it, but no invalidation has announced that)';
  }

  #failed(device: VmDevice, reason: string): void {
    this.ledger.deviceLost(device.index);
    const pinsReleased = device.fail(reason);
    const placement = this.#seats[device.index];
    placement?.gpu.release(placement.seat);
    if (pinsReleased > 0) device.failure = `${reason} (${pinsReleased} pins released)`;
    this.#record('deviceFailed', device.index, { reason, pinsReleased });
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
      const pins = device.failure === '' ? device.container.pins() : 0;
      if (pins > 0)
        this.#violation(device.index, 'leaked-pins', `${device.name} stopped and left ${pins} pins`);
    }
  }

  #violation(device: number, kind: string, detail: string): void {
    this.ledger.violation(kind, detail);
    this.#record('violation', device, { kind, detail, repeats: 0 });
  }

  /** Traces something that the coordinator itself has to say. */
  #record<K extends FrameKind>(kind: K, device: number, body: FrameBodies[K]): void {
    this.#around.trace(encodeFrame(this.header(device), kind, body));
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
      expectFault: (device, iova) => this.ledger.expectFault(device, iova),
      audit: () => this.#audit(),
      schedule: (scheduling) => this.#around.gpus.schedule(scheduling),
      gpuFigures: () => this.#around.gpus.figures(),
    };
  }

  #deviceTask(device: VmDevice): DeviceTask {
    const { process, vm, inject } = this.config;
    const { doorbell, doorbellSenders, firstBit, gpus } = this.#around;
    const options: DeviceOptions & { readonly seat: SeatHandle } = {
      // One device of the chosen VM is broken; its neighbours are the witnesses.
      fault: device.index === 0 && MODEL_FAULTS.has(inject) ? inject : '',
      seat: gpus.handle(this.#seats[device.index] as Placement),
    };
    return {
      process,
      vm,
      device: device.index,
      name: device.name,
      model: modelAt(this.config.model, device.index),
      modelSource: this.config.modelSource,
      options,
      link: device.link.sab,
      pinTable: device.table.handle,
      readerSlot: device.slot,
      memory: this.ram.host.handle,
      coordinatorDoorbell: doorbell,
      coordinatorSenders: doorbellSenders,
      coordinatorBit: firstBit + 1 + device.index,
    };
  }

  #guestTask(): GuestTask {
    const { vm, seed, scenario, params, viommu, inject } = this.config;
    const { doorbell, doorbellSenders, firstBit } = this.#around;
    return {
      vm,
      seed,
      scenario,
      params,
      ram: this.ram.handle,
      devices: this.devices.map(({ name, requesterId, link }) => ({ name, requesterId, link: link.sab })),
      model: this.config.model,
      viommu,
      iommuMmio: this.#registers.mmio,
      coordinatorDoorbell: doorbell,
      coordinatorSenders: doorbellSenders,
      coordinatorBit: firstBit,
      fault: inject === 'skip-invalidation' ? inject : '',
    };
  }
}

/** Faults that `--inject` plants in a device model. */
export const MODEL_FAULTS: ReadonlySet<string> = new Set([
  'stale-translation',
  'never-unpin',
  'worker-crash',
]);
