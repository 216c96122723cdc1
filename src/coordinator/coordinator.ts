/**
 * The coordinator thread: the only thread that changes the vIOMMUs and containers of its process's VMs.
 *
 * It sleeps on one doorbell word, and a bitmap names the rings to serve. It never blocks on a device: an unmap that must
 * wait delays its own VM only.
 */
import { nowUs, yieldTurn } from '#host';
import { Doorbell, doorbellWords } from '../channel/doorbell.ts';
import { TraceWriter } from '../proto/trace.ts';
import { GpuPool, type GpuRunSettings } from './gpu-pool.ts';
import { HostSlabs } from './host-slabs.ts';
import type { ArrivedVm, LoadChannel, VmConfig, VmContext } from './vm/config.ts';
import { DeviceWatchdog } from './vm/device-watchdog.ts';
import type { HostSocket } from './vm/migration/host-socket.ts';
import { Vm } from './vm/vm.ts';
import { DeviceSupervisor } from './workers/supervisor.ts';

/** Maximum sleep, in case a wake-up is lost. */
const IDLE_WAIT_MS = 500;

interface CoordinatorOptions {
  readonly vms: readonly VmConfig[];
  /** Entry modules of the two kinds of worker. */
  readonly workers: { readonly device: URL; readonly guest: URL };
  /** Trace file; empty for none. */
  readonly trace: string;
  /** Division of the physical GPUs. */
  readonly gpus?: GpuRunSettings | undefined;
  /** Default: the load starts at once, and nobody reads metrics. */
  readonly load?: LoadChannel;
  /** Set if VMs may migrate to and from other hosts. */
  readonly migrations?: Migrations | undefined;
}

export interface Migrations {
  readonly hostSocket: HostSocket;
  /** Maximum count of VMs and devices here at one time. */
  readonly capacity: { readonly vms: number; readonly devices: number };
  /** Called when a VM from another host runs here, with its result to come. */
  arrived: VmContext['arrived'];
}

const NO_LOAD: LoadChannel = {
  booted: async () => nowUs(),
  started: Promise.resolve(nowUs()),
  metrics: () => {},
};

/** Count of a VM's numbers on the doorbell: one for its vIOMMU, then one per device. */
const doorbellNumbers = ({ vgpus }: VmConfig): number => 1 + vgpus;

/** A VM of the run that could not be built. */
interface UnbuiltVm {
  readonly config: VmConfig;
  readonly reason: string;
}

export class Coordinator {
  /** All VMs that are here now. */
  readonly vms: Vm[] = [];
  /** The VMs that start here, without those that arrive from other hosts. */
  readonly own: readonly Vm[];
  readonly unbuilt: readonly UnbuiltVm[];
  readonly #doorbell: Doorbell;
  readonly #doorbellSab: SharedArrayBuffer;
  readonly #senders: number;
  readonly #supervisor: DeviceSupervisor;
  readonly #watchdog = new DeviceWatchdog();
  readonly #gpus: GpuPool;
  readonly #slabs = new HostSlabs();
  readonly #options: CoordinatorOptions;
  readonly #trace: TraceWriter | undefined;
  /** Doorbell number → its VM, with the function that serves it; undefined for a free number. */
  readonly #serve: ({ readonly vm: Vm; serve(): void } | undefined)[] = [];
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
    const unbuilt: UnbuiltVm[] = [];
    for (const config of vms)
      try {
        this.addVm(config);
      } catch (error) {
        unbuilt.push({ config, reason: error instanceof Error ? error.message : String(error) });
      }
    this.own = [...this.vms];
    this.unbuilt = unbuilt;
  }

  /** Builds a VM; the caller starts its devices. @throws RangeError if there is no room, or for a bad configuration */
  addVm(config: VmConfig): Vm {
    const firstBit = this.#allocateNumbers(doorbellNumbers(config));
    const { workers, migrations } = this.#options;
    const vm = new Vm(config, {
      doorbell: this.#doorbellSab,
      doorbellSenders: this.#senders,
      firstBit,
      supervisor: this.#supervisor,
      gpus: this.#gpus,
      slabs: this.#slabs,
      workers,
      hostSocket: migrations?.hostSocket,
      load: this.#options.load ?? NO_LOAD,
      trace: (frame) => this.trace(frame),
      arrived: (arrival, result) => migrations?.arrived(arrival, result),
      reschedule: (bit) => this.#doorbell.ring(bit),
    });
    this.vms.push(vm);
    this.#serve[firstBit] = { vm, serve: () => vm.serveIommu() };
    for (const { index } of vm.devices)
      this.#serve[firstBit + 1 + index] = { vm, serve: () => vm.serveDevice(index) };
    this.#watchdog.add(vm.devices.map((device) => ({ device, timeoutMs: config.deviceTimeoutMs })));
    return vm;
  }

  /** Removes a VM that has ended here and frees its numbers on the doorbell. */
  removeVm(ended: ArrivedVm): void {
    const at = this.vms.findIndex(({ config }) => config === ended.config);
    const [vm] = at < 0 ? [] : this.vms.splice(at, 1);
    if (!vm) return;
    vm.forgetGpus();
    if (vm.isClosed) this.#slabs.give(vm.ram.host);
    this.#watchdog.remove(vm.devices);
    this.#serve.fill(undefined, vm.context.firstBit, vm.context.firstBit + doorbellNumbers(vm.config));
  }

  /** Frames of the trace, and the error that has ended it, or empty. */
  get traceResult(): { readonly frames: number; readonly dropped: number; readonly error: string } {
    return this.#trace ?? { frames: 0, dropped: 0, error: '' };
  }

  /** Adds a frame to the trace, if there is one. */
  trace(frame: Uint8Array): void {
    this.#trace?.append(frame);
  }

  /** Starts serving. */
  start(): void {
    this.#loop = this.#run().catch((error: unknown) => {
      for (const vm of this.vms) vm.lose(error);
    });
    this.#watchdog.start();
  }

  /** Starts the devices of the VMs that start here; resolves when each is ready or has failed. Never rejects. */
  async startDevices(): Promise<void> {
    const atOnce = this.own.filter(({ config }) => config.bootUs === 0);
    await Promise.all(atOnce.map((vm) => vm.startDevices().catch((error: unknown) => vm.lose(error))));
  }

  /** Returns the first of `count` free doorbell numbers in a row. @throws RangeError if there are none */
  #allocateNumbers(count: number): number {
    for (let first = 0; first + count <= this.#senders; first++) {
      const taken = this.#serve.slice(first, first + count).findLastIndex((serve) => serve !== undefined);
      if (taken < 0) return first;
      first += taken;
    }
    throw new RangeError(`a VM with ${count - 1} devices: this host has no room for more`);
  }

  /** Stops serving, ends the workers and closes the trace. */
  async close(): Promise<void> {
    this.#running = false;
    this.#watchdog.stop();
    this.#doorbell.ring(0);
    await this.#loop;
    await this.#supervisor.close();
    this.#trace?.close();
  }

  async #run(): Promise<void> {
    while (this.#running) {
      const sequence = this.#doorbell.sequence;
      this.#doorbell.take((sender) => this.#serveSender(sender));
      // A busy loop yields after each turn: promise callbacks alone would starve timers and messages.
      await (this.#doorbell.waitAsync(sequence, IDLE_WAIT_MS) ?? yieldTurn());
    }
  }

  /** An error of one VM ends that VM and must not stop the others. */
  #serveSender(sender: number): void {
    const served = this.#serve[sender];
    try {
      served?.serve();
    } catch (error) {
      served?.vm.lose(error);
    }
  }
}
