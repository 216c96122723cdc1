/**
 * Virtual users: each runs one iteration at a time on one vGPU, with buffers and random numbers of its own.
 */
import { nowUs, Prng } from '#host';
import { DeviceLostError, DeviceResetError } from '../../guest/gpu/errors.ts';
import type { Counter, Metrics, Trend } from '../../metrics/metrics.ts';
import type { Stage } from '../compile.ts';
import { workloadOf } from '../workloads/index.ts';
import type { StageVu } from './executors.ts';
import { IterationContext } from './iteration.ts';
import type { IterationSource } from './iteration-log.ts';
import type { LoadGpu, VuBuffer } from './load-gpu.ts';
import type { LoadVm } from './load-vm.ts';
import type { SavedVu } from './saved-load.ts';

/** Odd multipliers that separate the random numbers of stages, vGPUs and VUs. */
const STAGE_STRIDE = 0x9e37_79b1;
const GPU_STRIDE = 0x85eb_ca6b;
const VU_STRIDE = 0xc2b2_ae35;

/** One workload of a VU's mix. */
interface Choice {
  readonly source: IterationSource;
  /** Sum of the weights up to this one, as a part of all. */
  readonly upTo: number;
  readonly context: IterationContext;
  readonly iterations: Counter;
  readonly interrupted: Counter;
  readonly duration: Trend;
}

interface VuParts {
  readonly vm: LoadVm;
  readonly gpu: LoadGpu;
  /** Index of the vGPU among those of the stage. */
  readonly vgpu: number;
  readonly buffer: VuBuffer;
  readonly stage: Stage;
  /** Number of the VU on its vGPU in the stage. */
  readonly index: number;
  readonly metrics: Metrics;
  /** State of the VU at its last host; undefined for a new one. */
  readonly saved?: SavedVu | undefined;
}

export class Vu implements StageVu {
  readonly gpu: LoadGpu;
  readonly buffer: VuBuffer;
  readonly vgpu: number;
  /** Count of started iterations. */
  iterations: number;
  endedUs = 0;
  readonly #prng: Prng;
  readonly #choices: readonly Choice[];
  /** The workload of the iteration in flight. */
  #current: Choice | undefined;
  readonly #vm: LoadVm;

  constructor({ vm, gpu, vgpu, buffer, stage, index, metrics, saved }: VuParts) {
    this.gpu = gpu;
    this.vgpu = vgpu;
    this.#vm = vm;
    this.buffer = buffer;
    this.iterations = saved?.iterations ?? 0;
    this.#prng = saved
      ? Prng.from(saved.prng)
      : new Prng(
          vm.vm.seed ^
            Math.imul(stage.index + 1, STAGE_STRIDE) ^
            Math.imul(gpu.gpu.index + 1, GPU_STRIDE) ^
            Math.imul(index + 1, VU_STRIDE),
        );
    const total = stage.mix.reduce((sum, [, weight]) => sum + weight, 0);
    let sum = 0;
    this.#choices = stage.mix.map(([workload, weight]) => {
      sum += weight;
      const tagged = metrics.tagged({ vgpu: String(gpu.gpu.index), stage: stage.name, workload });
      const parts = { vm, gpu, buffer, prng: this.#prng, metrics: tagged, verify: stage.verify };
      return {
        source: { vgpu: gpu.gpu.index, stage: stage.name, workload, vu: index },
        upTo: sum / total,
        context: new IterationContext({ ...parts, workload: workloadOf(workload) }),
        iterations: tagged.counter('iterations'),
        interrupted: tagged.counter('interrupted_iterations'),
        duration: tagged.trend('iteration_duration'),
      };
    });
  }

  get alive(): boolean {
    return this.gpu.gpu.driver.alive;
  }

  /**
   * Runs one iteration that was due at `dueUs` of the process's clock. A reset of the device, or its loss, interrupts
   * it.
   * @throws the errors of the workload
   */
  async iterate(dueUs: number): Promise<void> {
    const { activity, turns, log } = this.#vm;
    let endUs: number | undefined;
    this.iterations++;
    activity.begin();
    const choice = this.#choose();
    this.#current = choice;
    try {
      await choice.context.run(dueUs);
      choice.iterations.add();
      endUs = nowUs();
      const tookUs = endUs - dueUs;
      choice.duration.add(tookUs);
      log?.add(choice.source, dueUs, tookUs);
    } catch (error) {
      if (!(error instanceof DeviceResetError || error instanceof DeviceLostError)) throw error;
      choice.interrupted.add();
    } finally {
      this.#current = undefined;
      activity.end();
    }
    this.endedUs = endUs ?? nowUs();
    const turn = turns.take(this.endedUs);
    if (!turn) return;
    await turn;
    this.endedUs = nowUs();
  }

  /** Counts the iteration in flight as interrupted, because the guest ends. */
  halt(): void {
    this.#current?.interrupted.add();
  }

  /** Returns the state of the VU. An iteration in flight counts as started. */
  save(): SavedVu {
    return { slot: this.buffer.slot, iterations: this.iterations, prng: this.#prng.state };
  }

  #choose(): Choice {
    const [only] = this.#choices;
    if (this.#choices.length === 1) return only as Choice;
    const drawn = this.#prng.next32() / 2 ** 32;
    return this.#choices.find(({ upTo }) => drawn < upTo) ?? (this.#choices.at(-1) as Choice);
  }
}
