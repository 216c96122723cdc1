/**
 * The coordinator thread: the only one that changes vIOMMUs and containers, for every VM of its process.
 *
 * It sleeps on one doorbell word; a bitmap says which ring to serve. Nothing here waits for a device: an unmap that
 * must wait does so in its VM, while the others are served.
 */
import { yieldTurn } from '#host';
import { Doorbell, doorbellWords } from '../channel/doorbell.ts';
import { TraceWriter } from '../channel/trace.ts';
import { DeviceWatch } from './device-watch.ts';
import { GpuPool, type GpuSettings } from './gpu-pool.ts';
import { DeviceSupervisor } from './supervisor.ts';
import { Vm, type VmConfig } from './vm.ts';

/** The sleep is cut this often, in case a wake-up is ever lost. */
const IDLE_WAIT_MS = 500;

export interface CoordinatorOptions {
  readonly vms: readonly VmConfig[];
  /** Modules of the two kinds of worker. */
  readonly workers: { readonly device: URL; readonly guest: URL };
  /** Trace file, or empty for none. */
  readonly trace: string;
  /** How the physical GPUs are divided. */
  readonly gpus?: GpuSettings | undefined;
}

export class Coordinator {
  readonly vms: Vm[] = [];
  readonly #doorbell: Doorbell;
  readonly #supervisor: DeviceSupervisor;
  readonly #watch: DeviceWatch;
  readonly #trace: TraceWriter | undefined;
  /** Doorbell number → what it serves. */
  readonly #serve: (() => void)[] = [];
  #running = true;
  #loop: Promise<void> | undefined;

  constructor({ vms, workers, trace, gpus: settings }: CoordinatorOptions) {
    const senders = vms.reduce((total, vm) => total + 1 + vm.vgpus, 0);
    const doorbell = new SharedArrayBuffer(doorbellWords(senders) * 4);
    this.#doorbell = new Doorbell(doorbell, 0, senders);
    this.#trace = trace === '' ? undefined : new TraceWriter(trace);
    this.#supervisor = new DeviceSupervisor(
      workers.device,
      vms.reduce((total, vm) => total + vm.vgpus, 0),
    );
    const gpus = new GpuPool(settings);
    for (const config of vms) {
      const vm = new Vm(config, {
        doorbell,
        doorbellSenders: senders,
        firstBit: this.#serve.length,
        supervisor: this.#supervisor,
        gpus,
        workers,
        trace: (frame) => this.trace(frame),
        again: (bit) => this.#doorbell.ring(bit),
      });
      this.vms.push(vm);
      this.#serve.push(() => vm.serveIommu());
      for (const device of vm.devices) this.#serve.push(() => vm.serveDevice(device.index));
    }
    this.#watch = new DeviceWatch(
      this.vms.flatMap(({ devices, config }) =>
        devices.map((device) => ({ device, timeoutMs: config.deviceTimeoutMs })),
      ),
    );
  }

  get traceFrames(): { written: number; dropped: number } {
    return { written: this.#trace?.frames ?? 0, dropped: this.#trace?.dropped ?? 0 };
  }

  /** Adds a frame to the trace, if there is one. */
  trace(frame: Uint8Array): void {
    this.#trace?.append(frame);
  }

  /** Starts serving. */
  start(): void {
    this.#loop = this.#run();
    this.#watch.start();
  }

  /** Starts every device of every VM; resolves when all are ready or have failed. */
  async startDevices(): Promise<void> {
    await Promise.all(this.vms.map((vm) => vm.startDevices()));
  }

  /** Ends serving, the workers and the trace. */
  async close(): Promise<void> {
    this.#running = false;
    this.#watch.stop();
    this.#doorbell.ring(0);
    await this.#loop;
    await this.#supervisor.close();
    this.#trace?.close();
  }

  async #run(): Promise<void> {
    while (this.#running) {
      const sequence = this.#doorbell.sequence;
      this.#doorbell.take((sender) => this.#serve[sender]?.());
      // Promise callbacks alone would starve timers and messages: a busy loop gives way after each turn.
      await (this.#doorbell.waitAsync(sequence, IDLE_WAIT_MS) ?? yieldTurn());
    }
  }
}
