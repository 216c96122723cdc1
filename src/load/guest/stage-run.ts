/**
 * One stage of the load on one VM: its VUs, its executor and its end.
 */
import { Metrics } from '../../metrics/metrics.ts';
import { endOf, lengthOf, type Stage, vusOf } from '../compile.ts';
import type { Share } from '../schedule.ts';
import type { RunClock } from './clock.ts';
import { execute, type StageProgress } from './executors.ts';
import type { LoadGpu } from './load-gpu.ts';
import type { LoadVm } from './load-vm.ts';
import type { SavedStage } from './saved-load.ts';
import { Vu } from './vu.ts';

/** A stage, and the VM's place among those that run it. */
export interface VmStage extends Stage {
  readonly share: Share;
}

interface StageParts {
  readonly stage: VmStage;
  readonly clock: RunClock;
  readonly vm: LoadVm;
  readonly gpus: readonly LoadGpu[];
  /** When the VM was ready, on the run's clock. */
  readonly readyUs: number;
  /** State of the stage at the VM's last host; undefined for a VM that has booted here. */
  readonly saved?: SavedStage | undefined;
}

export class StageRun {
  readonly #parts: StageParts;
  readonly #progress: StageProgress;
  #state: SavedStage['state'];
  #vus: readonly (readonly Vu[])[] = [];

  constructor(parts: StageParts) {
    const { saved = { state: 'waiting' } } = parts;
    this.#parts = parts;
    this.#state = saved.state;
    this.#progress = saved.state === 'running' ? { ...saved.progress } : {};
  }

  /** Runs the stage from its start, or from where it was at the last host. @throws the first error of an iteration */
  async run(): Promise<void> {
    const { stage, clock, vm } = this.#parts;
    if (this.#state === 'ended') return;
    if (this.#state === 'waiting') await clock.until(stage.startUs);
    if (clock.stopped) return;
    // A stage that is not measured has metrics that nobody takes.
    const metrics = stage.measured ? vm.vm.metrics : Metrics.discarding();
    const tagged = metrics.tagged({ stage: stage.name });
    const dropped = tagged.counter('dropped_iterations');
    dropped.add(0);
    tagged.counter('iterations').add(0);
    this.#vus = this.#takeVus(metrics);
    this.#state = 'running';
    const { share } = stage;
    const { readyUs } = this.#parts;
    const work = execute({
      stage,
      share,
      clock,
      vus: this.#vus,
      dropped,
      readyUs,
      progress: this.#progress,
    });
    const hasEnded = await clock.endOf(work, endOf(stage));
    this.#state = 'ended';
    if (hasEnded) {
      for (const vu of this.#vus.flat()) vu.gpu.giveBack(vu.buffer);
      return;
    }
    work.catch(() => {});
    tagged.counter('interrupted_iterations').add();
    vm.vm.note(
      `VM ${vm.vm.id}: an iteration of stage ${stage.name} had not ended ` +
        `${Math.round((endOf(stage) - stage.startUs - lengthOf(stage)) / 1e6)} s after the end of the stage`,
    );
  }

  /** Counts the iterations in flight as interrupted, because the guest ends. */
  halt(): void {
    for (const vu of this.#vus.flat()) vu.halt();
  }

  /** Returns the state of the stage, as plain JSON. Iterations in flight count as started. */
  save(): SavedStage {
    if (this.#state !== 'running') return { state: this.#state };
    return {
      state: 'running',
      progress: { ...this.#progress },
      vus: this.#vus.map((all) => all.map((vu) => vu.save())),
    };
  }

  #takeVus(metrics: Metrics): readonly (readonly Vu[])[] {
    const { stage, vm, gpus, saved } = this.#parts;
    return gpus.map((gpu, vgpu) => {
      const old = saved?.state === 'running' ? (saved.vus[vgpu] ?? []) : undefined;
      const buffers = old ? gpu.takeSlots(old.map(({ slot }) => slot)) : gpu.take(vusOf(stage));
      return buffers.map(
        (buffer, index) => new Vu({ vm, gpu, vgpu, buffer, stage, index, metrics, saved: old?.[index] }),
      );
    });
  }
}
