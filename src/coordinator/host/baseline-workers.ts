/**
 * The baseline: workers that only wait, started in the same way as device workers.
 */
import { Piscina } from 'piscina';
import { nowUs, sleep } from '#host';
import { workerEntry } from '../workers/entries.ts';
import { START_CONCURRENCY, WORKER_LIMITS } from '../workers/supervisor.ts';
import { BASELINE_WORDS_BYTES, baselineStarted, endBaselineWorkers } from './baseline-worker.ts';

interface BaselineStats {
  readonly workers: number;
  readonly startUs: number;
  /** Growth of the resident set, bytes. */
  readonly rss: number;
}

/** Starts, measures and ends `count` baseline workers. The process must not have started any worker before. */
export async function measureBaselineWorkers(count: number): Promise<BaselineStats> {
  const sab = new SharedArrayBuffer(BASELINE_WORDS_BYTES);
  const pool = new Piscina({
    filename: workerEntry('baseline').href,
    minThreads: 0,
    maxThreads: count,
    idleTimeout: 0,
    atomics: 'disabled',
    resourceLimits: WORKER_LIMITS,
    recordTiming: false,
  });
  const rssBefore = process.memoryUsage.rss();
  const since = nowUs();
  const runs: Promise<void>[] = [];
  while (runs.length < count) {
    runs.push(pool.run(sab));
    while (runs.length - baselineStarted(sab) >= START_CONCURRENCY) await sleep(1);
  }
  while (baselineStarted(sab) < count) await sleep(1);
  const stats = {
    workers: count,
    startUs: nowUs() - since,
    rss: process.memoryUsage.rss() - rssBefore,
  };
  endBaselineWorkers(sab);
  await Promise.all(runs);
  await pool.destroy();
  return stats;
}
