/**
 * The coordinator thread: the only one that changes vIOMMUs and containers, for every VM of its process.
 *
 * It sleeps on one doorbell word; a bitmap says which ring to serve. Nothing here waits for a device: an unmap that
 * must wait does so in its VM, while the others are served.
 */
import { yieldTurn } from '#host';
import { Doorbell, doorbellWords } from '../channel/doorbell.ts';
import { TraceWriter } from '../proto/trace.ts';
import { GpuPool, type GpuRunSettings } from './gpu-pool.ts';
import type { ArrivedVm, VmConfig, VmContext } from './vm/config.ts';
import { DeviceWatchdog } from './vm/device-watchdog.ts';
import type { HostSocket } from './vm/migration/host-socket.ts';
import { Vm } from './vm/vm.ts';
import { DeviceSupervisor } from './workers/supervisor.ts';

/** The sleep is cut this often, in case a wake-up is ever lost. */
const IDLE_WAIT_MS = 500;

export interface CoordinatorOptions {
  readonly vms: readonly VmConfig[];
  /** Modules of the two kinds of worker. */
  readonly workers: { readonly device: URL; readonly guest: URL };
  /** Trace file, or empty for none. */
  readonly trace: string;
  /** How the physical GPUs are divided. */
  readonly gpus?: GpuRunSettings | undefined;
  /** VMs may come from other hosts, and go there. */
  readonly migrations?: Migrations | undefined;
}

export interface Migrations {
  readonly hosts: HostSocket;
  /** Devices and VMs that may be here at once. */
  readonly capacity: { readonly vms: number; readonly devices: number };
  /** A VM that has come goes on here, to this result. */
  arrived: VmContext['arrived'];
}

/** A VM's numbers on the doorbell: its vIOMMU's, then one per device. */
const numbersOf = ({ vgpus }: VmConfig): number => 1 + vgpus;

export class Coordinator {
  readonly vms: Vm[] = [];
  readonly #doorbell: Doorbell;
  readonly #doorbellSab: SharedArrayBuffer;
  readonly #senders: number;
  readonly #supervisor: DeviceSupervisor;
  readonly #watch = new DeviceWatchdog();
  readonly #gpus: GpuPool;
  readonly #options: CoordinatorOptions;
  readonly #trace: TraceWriter | undefined;
  /** Doorbell number → what it serves; undefined: free. */
  readonly #serve: ((() => void) | undefined)[] = [];
  #running = true;
  #loop: Promise<void> | undefined;

  constructor(options: CoordinatorOptions) {
    const { vms, workers, trace, gpus, migrations } = options;
    const { vms: arrivals, devices } = migrations?.capacity ?? { vms: 0, devices: 0 };
    const own = vms.reduce((total, vm) => total + vm.vgpus, 0);
    this.#options = options;
    this.#senders = own + vms.length + devices + arrivals;
    this.#doorbellSab = new SharedArrayBuffer(doorbellWords(this.#senders) * 4);
    this.#doorbell = new Doorbell(this.#doorbellSab, 0, this.#senders);
    this.#trace = trace === '' ? undefined : new TraceWriter(trace);
    this.#supervisor = new DeviceSupervisor(workers.device, own + devices);
    this.#gpus = new GpuPool(gpus);
    for (const config of vms) this.addVm(config);
  }

  /** Builds a VM; its devices are to be started. @throws RangeError if there is no room, or for a bad configuration */
  addVm(config: VmConfig): Vm {
    const firstBit = this.#room(numbersOf(config));
    const { workers, migrations } = this.#options;
    const vm = new Vm(config, {
      doorbell: this.#doorbellSab,
      doorbellSenders: this.#senders,
      firstBit,
      supervisor: this.#supervisor,
      gpus: this.#gpus,
      workers,
      hosts: migrations?.hosts,
      trace: (frame) => this.trace(frame),
      arrived: (arrival, result) => migrations?.arrived(arrival, result),
      reschedule: (bit) => this.#doorbell.ring(bit),
    });
    this.vms.push(vm);
    this.#serve[firstBit] = () => vm.serveIommu();
    for (const { index } of vm.devices) this.#serve[firstBit + 1 + index] = () => vm.serveDevice(index);
    this.#watch.add(vm.devices.map((device) => ({ device, timeoutMs: config.deviceTimeoutMs })));
    return vm;
  }

  /** Forgets a VM that has ended here: its numbers on the doorbell are free. */
  removeVm(gone: ArrivedVm): void {
    const at = this.vms.findIndex(({ config }) => config === gone.config);
    const [vm] = at < 0 ? [] : this.vms.splice(at, 1);
    if (!vm) return;
    this.#watch.remove(vm.devices);
    this.#serve.fill(undefined, vm.context.firstBit, vm.context.firstBit + numbersOf(vm.config));
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

  /** First of `count` free numbers on the doorbell. @throws RangeError */
  #room(count: number): number {
    for (let first = 0; first + count <= this.#senders; first++) {
      const taken = this.#serve.slice(first, first + count).findLastIndex((serve) => serve !== undefined);
      if (taken < 0) return first;
      first += taken;
    }
    throw new RangeError(`a VM with ${count - 1} devices: this host has no room for more`);
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
