/**
 * One iteration of a workload: its commands, its checks and their metrics.
 */
import { nowUs, type Prng } from '#host';
import { CompletionStatus, type Opcode } from '../../abi/vgpu/vgpu.ts';
import type { GpuCommand, GpuCompletion } from '../../guest/gpu/ring.ts';
import type { GuestVm } from '../../guest/guest-vm.ts';
import type { GuestGpu } from '../../guest/vm-parts.ts';
import type { Gpa } from '../../memory/address.ts';
import type { Counter, Metrics, Rate, Trend } from '../../metrics/metrics.ts';
import type { LoadGpu, VuBuffer } from './load-gpu.ts';
import type { LoadVm } from './load-vm.ts';

interface IterationParts {
  readonly vm: LoadVm;
  readonly gpu: LoadGpu;
  readonly buffer: VuBuffer;
  readonly prng: Prng;
  readonly metrics: Metrics;
  readonly workload: Workload;
  /** Part of the iterations that are verified. */
  readonly verify: number;
}

/** One iteration. @throws whatever fails, except checks */
export type Workload = (context: IterationContext) => Promise<void>;

/** Metrics of one kind of command. */
interface CommandMetrics {
  readonly latency: Trend;
  readonly commands: Counter;
  readonly bytes: Counter;
}

/** Operations by opcode, for the tag `op`. */
const OPERATIONS: Readonly<Record<Opcode, string>> = {
  0: 'nop',
  1: 'fill',
  2: 'copy',
  3: 'checksum',
  4: 'update-ptes',
  5: 'compute',
  6: 'signal',
  7: 'wait',
};

/** A workload's view of its VU; one object for each workload of a VU. */
export class IterationContext {
  readonly load: LoadVm;
  readonly loadGpu: LoadGpu;
  readonly buffer: VuBuffer;
  readonly prng: Prng;
  readonly metrics: Metrics;
  /** True if the results of this iteration must be compared. */
  verified = true;
  readonly #run: Workload;
  readonly #verify: number;
  readonly #checks: Rate;
  readonly #measures: boolean;
  readonly #commands: (CommandMetrics | undefined)[] = [];
  /** When the iteration was due; undefined once its first command has completed. */
  #dueUs: number | undefined;

  constructor({ vm, gpu, buffer, prng, metrics, workload, verify }: IterationParts) {
    this.load = vm;
    this.loadGpu = gpu;
    this.buffer = buffer;
    this.prng = prng;
    this.metrics = metrics;
    this.#verify = verify;
    this.#run = workload;
    this.#checks = metrics.rate('checks');
    this.#measures = metrics.measures;
  }

  get vm(): GuestVm {
    return this.load.vm;
  }

  get gpu(): GuestGpu {
    return this.loadGpu.gpu;
  }

  /** Runs one iteration that was due at this time of the process's clock. */
  run(dueUs: number): Promise<void> {
    this.#dueUs = dueUs;
    this.verified = this.#verify >= 1 || this.prng.next32() / 2 ** 32 < this.#verify;
    return this.#run(this);
  }

  /**
   * Submits a command. Its latency counts from when the iteration was due, if none has completed in it yet.
   * @param expected status that it must end with; another one is a failed check
   */
  submit(command: GpuCommand, expected?: number): Promise<GpuCompletion> {
    // One promise for a command; an async function and the driver's own promise would add two.
    return new Promise((resolve, reject) => {
      const since = this.#dueUs ?? nowUs();
      const completed = (completion: GpuCompletion) => {
        this.#dueUs = undefined;
        this.vm.countOperation();
        const { status } = completion;
        if (expected !== undefined && status !== expected)
          this.check(false, () => `command ${command.opcode} ended with status ${status}`);
        if (this.#measures) this.#measure(command, completion, since);
        resolve(completion);
      };
      this.gpu.driver.startCommand(command, completed, reject);
    });
  }

  #measure(command: GpuCommand, { status, latencyUs, readUs }: GpuCompletion, since: number): void {
    const { latency, commands, bytes } = this.#metricsOf(command.opcode);
    const us = readUs - since;
    latency.add(us);
    if (status === CompletionStatus.fault) this.metrics.trend('fault_latency').add(us);
    this.gpu.latencies.recordUs('interrupt', latencyUs);
    commands.add();
    if (command.length) bytes.add(command.length);
  }

  /** Records a check of a condition; a failed one fails the run. */
  check(holds: boolean, text: () => string): void {
    this.#checks.add(holds);
    if (!holds) this.vm.verify.fail(`${this.gpu.name} ${text()}`);
  }

  /** Compares pages of guest RAM with `expected`, if the iteration is verified. */
  checkPages(pages: readonly Gpa[], expected: Uint8Array, what: string): void {
    if (!this.verified) return;
    const { verify } = this.vm;
    const before = verify.mismatches;
    verify.pages(pages, expected, `${this.gpu.name} ${what}`);
    this.#checks.add(verify.mismatches === before);
  }

  /** Runs `work` and records its duration. */
  async timed<Result>(metric: string, op: string, work: () => Promise<Result>): Promise<Result> {
    const since = nowUs();
    const result = await work();
    this.metrics
      .tagged({ op })
      .trend(metric)
      .add(nowUs() - since);
    return result;
  }

  #metricsOf(opcode: Opcode): CommandMetrics {
    let found = this.#commands[opcode];
    if (!found) {
      const tagged = this.metrics.tagged({ op: OPERATIONS[opcode] });
      found = {
        latency: tagged.trend('command_latency'),
        commands: tagged.counter('commands'),
        bytes: tagged.counter('bytes'),
      };
      this.#commands[opcode] = found;
    }
    return found;
  }
}
