/**
 * Declared load in a guest: boots the guest as an operating system does, and runs the stages of its group.
 */
import type { GuestVm } from '../../guest/guest-vm.ts';
import type { GuestIommu } from '../../guest/iommu/guest-iommu.ts';
import { SharedMutex } from '../../guest/mutex.ts';
import { Metrics } from '../../metrics/metrics.ts';
import { endOf, lengthOf, peakVus, type Stage, vusOf } from '../compile.ts';
import type { Share } from '../schedule.ts';
import type { IommuMode } from '../schema.ts';
import { WORKLOADS } from '../workload-names.ts';
import { RunClock } from './clock.ts';
import { execute } from './executors.ts';
import { LoadGpu } from './load-gpu.ts';
import type { Iteration, LoadVm } from './load-vm.ts';
import { Turns } from './turns.ts';
import { Vu } from './vu.ts';

/** A stage, and the VM's place among those that run it. */
export interface VmStage extends Stage {
  readonly share: Share;
}

/** The part of one VM in the load, as plain JSON. */
export interface VmLoad {
  readonly iommu: IommuMode;
  readonly stages: readonly VmStage[];
}

export class LoadRun {
  readonly #vm: GuestVm;
  readonly #plan: VmLoad;
  readonly #iteration: Iteration | undefined;
  readonly #clock = new RunClock();
  #load: LoadVm | undefined;
  #gpus: readonly LoadGpu[] = [];
  #readyUs = 0;

  constructor(vm: GuestVm, plan: VmLoad, iteration: Iteration | undefined) {
    this.#vm = vm;
    this.#plan = plan;
    this.#iteration = iteration;
  }

  /**
   * Boots the guest: turns translation on with a domain for each device, as the plan says, and maps the buffers of the
   * VUs. The drivers of the devices must have started.
   */
  async boot(): Promise<void> {
    const vm = this.#vm;
    const { stages } = this.#plan;
    const used = stages.flatMap(({ mix }) => mix.map(([name]) => WORKLOADS[name]));
    const switching = used.some((workload) => workload?.switches);
    const iommu = await this.#startIommu();
    this.#load = {
      vm,
      iommu,
      translation: new SharedMutex(),
      iteration: this.#iteration,
      turns: new Turns(),
    };
    const gpus: LoadGpu[] = [];
    await vm.eachGpu(async (gpu) => {
      const count = peakVus(stages);
      gpus.push(await (switching ? LoadGpu.createSwitching(vm, gpu, count) : LoadGpu.create(vm, gpu, count)));
    });
    this.#gpus = gpus.sort((a, b) => a.gpu.index - b.gpu.index);
  }

  /** Runs all stages. @param startUs start of the run's clock, on the scale of `nowUs()` */
  async run(startUs: number): Promise<void> {
    this.#clock.start(startUs);
    this.#readyUs = this.#clock.us;
    const running = this.#plan.stages.map((stage) => this.#runStage(stage));
    try {
      await Promise.all(running);
      for (const { gpu } of this.#gpus) await gpu.dma.flush();
    } catch (error) {
      this.stop();
      await Promise.allSettled(running);
      throw error;
    }
  }

  /** Ends the stages: they start no more iterations. */
  stop(): void {
    this.#clock.stop();
  }

  async #startIommu(): Promise<GuestIommu | undefined> {
    const vm = this.#vm;
    const mode = this.#plan.iommu;
    if (vm.viommu === 'none' || mode === 'off') return undefined;
    const iommu = await vm.iommu();
    for (const gpu of vm.gpus)
      if (mode === 'passthrough') await iommu.setPassThrough(gpu.requesterId);
      else {
        await vm.translate(gpu);
        gpu.dma.lazy = mode === 'lazy';
      }
    await vm.timedSwitch(() => iommu.enableTranslation());
    return iommu;
  }

  async #runStage(stage: VmStage): Promise<void> {
    const clock = this.#clock;
    await clock.until(stage.startUs);
    if (clock.stopped) return;
    // A stage that is not measured has metrics that nobody takes.
    const metrics = stage.measured ? this.#vm.metrics : new Metrics();
    const tagged = metrics.tagged({ stage: stage.name });
    const dropped = tagged.counter('dropped_iterations');
    dropped.add(0);
    tagged.counter('iterations').add(0);
    const vm = this.#load as LoadVm;
    const vus = this.#gpus.map((gpu, vgpu) =>
      gpu.take(vusOf(stage)).map((buffer, index) => new Vu({ vm, gpu, vgpu, buffer, stage, index, metrics })),
    );
    const { share } = stage;
    const work = execute({ stage, share, clock, vus, dropped, readyUs: this.#readyUs });
    if (!(await clock.endOf(work, endOf(stage)))) {
      tagged.counter('interrupted_iterations').add();
      this.#vm.note(
        `VM ${this.#vm.id}: an iteration of stage ${stage.name} had not ended ` +
          `${Math.round((endOf(stage) - stage.startUs - lengthOf(stage)) / 1e6)} s after the end of the stage`,
      );
      work.catch(() => {});
      return;
    }
    for (const vu of vus.flat()) vu.gpu.giveBack(vu.buffer);
  }
}
