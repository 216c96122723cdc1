/**
 * Executors: start the iterations of a stage on one VM.
 */
import { nowUs } from '#host';
import type { Counter } from '../../metrics/metrics.ts';
import type { Pattern, Stage } from '../compile.ts';
import { lengthOf } from '../compile.ts';
import { constantArrival, nextVuChange, rampArrival, type Share, shareOf, vusAt } from '../schedule.ts';
import type { RunClock } from './clock.ts';

/** A VU, as its executor sees it. */
export interface StageVu {
  /** Index of its vGPU among those of {@link StageRun.vus}. */
  readonly vgpu: number;
  /** False once its vGPU is lost. */
  readonly alive: boolean;
  /** Count of started iterations. */
  readonly iterations: number;
  /** Time of the end of its last iteration, on the scale of `nowUs()`. */
  readonly endedUs: number;
  /** Runs one iteration. @param dueUs when it was due, on the scale of `nowUs()` */
  iterate(dueUs: number): Promise<void>;
}

/** Stage, VUs and clock of an executor. */
export interface StageRun {
  readonly stage: Stage;
  readonly share: Share;
  readonly clock: RunClock;
  /** VUs of each vGPU of the VM. */
  readonly vus: readonly (readonly StageVu[])[];
  readonly dropped: Counter;
  /** When the VM was ready, on the run's clock: a VM that boots late misses what was due before. */
  readonly readyUs: number;
  /** Kept up to date while the stage runs, and not empty if it continues that of another host. */
  readonly progress: StageProgress;
}

/** Progress of a stage, beside its VUs. */
export interface StageProgress {
  /** Iterations of `shared-iterations` that have not been started. */
  left?: number;
  /** Number of the next arrival of an open stage in its group. */
  arrival?: number;
  /** Index of the vGPU that takes it. */
  nextGpu?: number;
}

/** Runs a stage; resolves when its last iteration has ended. @throws the first error of an iteration */
export function execute(run: StageRun): Promise<void> {
  const { pattern } = run.stage;
  switch (pattern.kind) {
    case 'vus':
      return everyVu(run, (vu) => loop(run, vu, () => true));
    case 'ramping-vus':
      return everyVu(run, (vu, index) => rampingVu(run, vu, index, pattern));
    case 'per-vu':
      return perVu(run, pattern.iterations);
    case 'shared':
      return shared(run, shareOf(pattern.iterations, run.share));
    case 'rate':
      return arrivals(run, (number) => constantArrival(number, pattern.rate));
    case 'ramping-rate':
      return arrivals(run, (number) => rampArrival(number, pattern.startRate, pattern.ramps));
  }
}

async function everyVu(
  { vus }: StageRun,
  work: (vu: StageVu, index: number) => Promise<void>,
): Promise<void> {
  await Promise.all(vus.flatMap((all) => all.map((vu, index) => work(vu, index))));
}

const isOver = ({ stage, clock }: StageRun): boolean =>
  clock.stopped || clock.us >= stage.startUs + lengthOf(stage);

/** Iterates while `wanted` returns true and the stage lasts. */
async function loop(run: StageRun, vu: StageVu, wanted: () => boolean): Promise<void> {
  const { clock, stage } = run;
  const endUs = clock.onProcessClock(stage.startUs + lengthOf(stage));
  // The clock is read once for each iteration: a read costs as much as a small command.
  let us = nowUs();
  while (!clock.stopped && us < endUs && vu.alive) {
    // A hold may last beyond the end of the stage.
    if (clock.held) {
      await clock.held;
      us = nowUs();
    } else if (wanted()) {
      await vu.iterate(us);
      us = vu.endedUs;
    } else return;
  }
}

async function rampingVu(
  run: StageRun,
  vu: StageVu,
  index: number,
  { start, ramps }: Extract<Pattern, { kind: 'ramping-vus' }>,
): Promise<void> {
  const { clock, stage } = run;
  const isActive = (us: number) => vusAt(start, ramps, us) > index;
  while (!isOver(run) && vu.alive) {
    await loop(run, vu, () => isActive(clock.us - stage.startUs));
    const next = nextVuChange(start, ramps, clock.us - stage.startUs);
    if (next === undefined) return;
    await clock.until(stage.startUs + next);
  }
}

async function perVu(run: StageRun, iterations: number): Promise<void> {
  await everyVu(run, (vu) => loop(run, vu, () => vu.iterations < iterations));
  // All at once, because a stage that has not ended may continue at another host.
  for (const vu of run.vus.flat()) run.dropped.add(iterations - vu.iterations);
}

async function shared(run: StageRun, iterations: number): Promise<void> {
  const { progress } = run;
  let left = progress.left ?? iterations;
  const take = () => {
    if (left === 0) return false;
    progress.left = --left;
    return true;
  };
  await everyVu(run, (vu) => loop(run, vu, take));
  run.dropped.add(left);
}

/**
 * Starts an iteration at each time that is due for this VM, whether or not earlier ones have ended. A late start does
 * not shift later ones, and counts in the latency. Without a free VU the iteration is dropped.
 * @param dueAt when arrival `number` of the group is due, from the start of the stage
 */
async function arrivals(run: StageRun, dueAt: (number: number) => number | undefined): Promise<void> {
  const { stage, share, clock, dropped, readyUs, progress } = run;
  const pool = new VuPool(run.vus, progress);
  const lengthUs = lengthOf(stage);
  for (let number = progress.arrival ?? share.index; ; number += share.count) {
    progress.arrival = number;
    const dueUs = dueAt(number);
    if (dueUs === undefined || dueUs >= lengthUs) break;
    if (stage.startUs + dueUs < readyUs) {
      dropped.add();
      continue;
    }
    if (clock.us < stage.startUs + dueUs || clock.held) await clock.until(stage.startUs + dueUs);
    if (clock.stopped || pool.error) break;
    if (!pool.start(clock.onProcessClock(stage.startUs + dueUs))) dropped.add();
  }
  await pool.end();
}

/** VUs of a stage that are free or at work. */
class VuPool {
  /** The first error of an iteration. */
  error: { readonly reason: unknown } | undefined;
  readonly #free: StageVu[][];
  readonly #running = new Set<Promise<void>>();
  readonly #progress: StageProgress;

  constructor(vus: readonly (readonly StageVu[])[], progress: StageProgress) {
    this.#free = vus.map((all) => all.toReversed());
    this.#progress = progress;
  }

  /** Starts an iteration that was due at this time of the process's clock; returns false if no VU is free. */
  start(dueUs: number): boolean {
    const vu = this.#take();
    if (!vu) return false;
    const running = vu.iterate(dueUs).then(
      () => this.#give(vu),
      (reason) => {
        this.error ??= { reason };
      },
    );
    this.#running.add(running);
    void running.then(() => this.#running.delete(running));
    return true;
  }

  /** Resolves when all iterations have ended. @throws the first error of one */
  async end(): Promise<void> {
    while (this.#running.size > 0 && !this.error) await Promise.race(this.#running);
    if (this.error) throw this.error.reason;
  }

  /** Returns a free VU of the next vGPU that has one. */
  #take(): StageVu | undefined {
    const gpus = this.#free.length;
    for (let tried = 0; tried < gpus; tried++) {
      const gpu = this.#progress.nextGpu ?? 0;
      this.#progress.nextGpu = (gpu + 1) % gpus;
      const vu = this.#free[gpu]?.pop();
      if (vu?.alive) return vu;
    }
    return undefined;
  }

  #give(vu: StageVu): void {
    this.#free[vu.vgpu]?.push(vu);
  }
}
