/**
 * Declared load in a guest: boots the guest as an operating system does, and runs the stages of its group. The VM may
 * migrate meanwhile; the stages then continue at the other host.
 */
import { yieldTurn } from '#host';
import type { GuestVm } from '../../guest/guest-vm.ts';
import type { GuestIommu } from '../../guest/iommu/guest-iommu.ts';
import { type Pause, VmMovedError } from '../../guest/migration.ts';
import { SharedMutex } from '../../guest/mutex.ts';
import type { IterationMessage } from '../../metrics/wire.ts';
import { peakVus } from '../compile.ts';
import type { IommuMode } from '../schema.ts';
import { WORKLOADS } from '../workload-names.ts';
import { Activity } from './activity.ts';
import { RunClock } from './clock.ts';
import { IterationLog } from './iteration-log.ts';
import { LoadGpu } from './load-gpu.ts';
import type { Iteration, LoadVm } from './load-vm.ts';
import type { SavedLoad, SavedStage } from './saved-load.ts';
import { StageRun, type VmStage } from './stage-run.ts';
import { Turns } from './turns.ts';

/** The part of one VM in the load, as plain JSON. */
export interface VmLoad {
  readonly iommu: IommuMode;
  readonly stages: readonly VmStage[];
  /** Maximum count of iterations a second in the sample for timelines; 0 for no sample. */
  readonly sampled: number;
}

export class LoadRun {
  readonly #vm: GuestVm;
  readonly #plan: VmLoad;
  readonly #iteration: Iteration | undefined;
  readonly #clock = new RunClock();
  readonly #activity = new Activity();
  readonly #log: IterationLog | undefined;
  #load: LoadVm | undefined;
  #gpus: readonly LoadGpu[] = [];
  #stages: readonly StageRun[] = [];
  #readyUs = 0;
  #saved: SavedLoad | undefined;
  /** Stages as the VM's last guest has left them; empty for the first guest. */
  readonly #before: readonly SavedStage[];
  /** True while the stages run. */
  isRunning = false;
  /** The migration in progress, or the last one. Rejects with VmMovedError only. */
  #migration: Promise<void> = Promise.resolve();
  #onMoved: (error: VmMovedError) => void = () => {};
  readonly #moved: Promise<never> = new Promise((_, reject) => {
    this.#onMoved = reject;
  });

  /** @param before stages as {@link halt} of the VM's last guest has returned them */
  constructor(
    vm: GuestVm,
    plan: VmLoad,
    iteration: Iteration | undefined,
    before: readonly SavedStage[] = [],
  ) {
    this.#vm = vm;
    this.#before = before;
    this.#plan = plan;
    this.#iteration = iteration;
    this.#log = plan.sampled > 0 ? new IterationLog(this.#clock, plan.sampled) : undefined;
    this.#moved.catch(() => {}); // nothing waits for it while the stages do not run
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
    this.#load = this.#loadVm(await this.#startIommu());
    const gpus: LoadGpu[] = [];
    await vm.eachGpu(async (gpu) => {
      const count = peakVus(stages);
      gpus.push(await (switching ? LoadGpu.createSwitching(vm, gpu, count) : LoadGpu.create(vm, gpu, count)));
    });
    this.#gpus = gpus.sort((a, b) => a.gpu.index - b.gpu.index);
  }

  /** Restores what {@link migrate} has saved on the last host, in place of {@link boot}. */
  async restore(saved: SavedLoad): Promise<void> {
    const vm = this.#vm;
    this.#saved = saved;
    this.#load = this.#loadVm(this.#usesIommu ? await vm.iommu() : undefined);
    for (const gpu of vm.gpus) gpu.dma.lazy = this.#plan.iommu === 'lazy';
    this.#gpus = saved.gpus.map((state) => LoadGpu.restore(vm, state));
  }

  /**
   * Runs all stages to their end.
   * @param startUs start of the run's clock, on the scale of `nowUs()`
   * @throws VmMovedError if they continue at another host
   */
  async run(startUs: number): Promise<void> {
    const clock = this.#clock;
    clock.start(startUs);
    this.#readyUs = this.#saved?.readyUs ?? clock.us;
    const parts = { clock, vm: this.#load as LoadVm, gpus: this.#gpus, readyUs: this.#readyUs };
    this.#stages = this.#plan.stages.map(
      (stage, i) => new StageRun({ ...parts, stage, saved: this.#saved?.stages[i] ?? this.#before[i] }),
    );
    const running = this.#stages.map((stage) => stage.run());
    this.isRunning = true;
    try {
      await Promise.race([Promise.all(running), this.#moved]);
      // Stages that have ended do not end a migration.
      await this.#migration;
      for (const { gpu } of this.#gpus) await gpu.dma.flush();
    } catch (error) {
      this.stop();
      if (!(error instanceof VmMovedError)) await Promise.allSettled(running);
      throw error;
    } finally {
      this.isRunning = false;
    }
  }

  /** Returns a sample of the iterations that have ended since the last call. */
  takeIterations(): readonly IterationMessage[] {
    return this.#log?.take() ?? [];
  }

  /** Ends the load for a reset of the platform. Returns its stages, which the next guest continues. */
  halt(): readonly SavedStage[] {
    this.stop();
    for (const stage of this.#stages) stage.halt();
    return this.#stages.map((stage) => stage.save());
  }

  /**
   * Ends the load for a shutdown: iterations in flight end, and the drivers let go of the devices. Returns the stages,
   * which the next guest continues.
   */
  async shutDown(): Promise<readonly SavedStage[]> {
    await this.#holdUntilIdle();
    const stages = this.#stages.map((stage) => stage.save());
    this.stop();
    for (const { gpu } of this.#gpus) await gpu.driver.stop();
    await this.#load?.iommu?.disableTranslation();
    return stages;
  }

  /** Holds the load; resolves when the last iteration has ended and nothing of it is left to flush. */
  async #holdUntilIdle(): Promise<void> {
    this.#clock.hold();
    await this.#activity.idle();
    for (const { gpu } of this.#gpus) await gpu.dma.flush();
    // The executors take note of the iterations that have ended.
    await yieldTurn();
  }

  /** Holds the load while the virtual CPUs are stopped; iterations in flight continue with their next driver call. */
  setPaused(paused: boolean): void {
    if (paused) this.#clock.hold();
    else this.#clock.release();
  }

  /** Ends the stages: they start no more iterations. */
  stop(): void {
    this.#clock.stop();
  }

  /**
   * Moves the VM to another host process while the load runs. During the last copy no iteration is in flight; those that
   * become due are started at the other host.
   * @param to number of the host process; undefined for the next one
   * @param beforeMove called when the last iteration here has ended
   * @throws MigrationError if the VM stays; the load then continues here
   */
  migrate(to: number | undefined, beforeMove: () => Promise<void>): Promise<void> {
    const migration = this.#migrate(to, beforeMove);
    this.#migration = migration.catch((error) => {
      if (error instanceof VmMovedError) throw error;
    });
    this.#migration.catch(() => {}); // the stages may not have ended
    return migration.catch((error) => {
      if (!(error instanceof VmMovedError)) throw error;
    });
  }

  async #migrate(to: number | undefined, beforeMove: () => Promise<void>): Promise<void> {
    const vm = this.#vm;
    // A script of the scenario must not migrate a VM under load by itself.
    vm.migratable = true;
    const moving = vm.migrate({
      ...(to !== undefined && { to }),
      work: async (pause) => this.#saveAt(pause, beforeMove),
    });
    vm.migratable = false;
    try {
      await moving;
    } catch (error) {
      if (error instanceof VmMovedError) this.#onMoved(error);
      else this.#clock.release();
      throw error;
    }
  }

  /** Holds the load when the VM must pause, and returns its state when the last iteration has ended. */
  async #saveAt(pause: Pause, beforeMove: () => Promise<void>): Promise<SavedLoad> {
    await pause.whenRequested;
    await this.#holdUntilIdle();
    await beforeMove();
    return {
      readyUs: this.#readyUs,
      gpus: this.#gpus.map((gpu) => gpu.save()),
      stages: this.#stages.map((stage) => stage.save()),
    };
  }

  #loadVm(iommu: GuestIommu | undefined): LoadVm {
    return {
      vm: this.#vm,
      iommu,
      translation: new SharedMutex(),
      iteration: this.#iteration,
      turns: new Turns(),
      activity: this.#activity,
      log: this.#log,
    };
  }

  get #usesIommu(): boolean {
    return this.#vm.viommu !== 'none' && this.#plan.iommu !== 'off';
  }

  async #startIommu(): Promise<GuestIommu | undefined> {
    const vm = this.#vm;
    const mode = this.#plan.iommu;
    if (!this.#usesIommu) return undefined;
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
}
