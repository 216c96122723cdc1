/**
 * Memory of the command over a long run: 64 vGPUs under load for ten minutes. `MINUTES=2 npm run bench -- load-memory`
 * compresses the time; the first sample is then taken after a tenth of it, too.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { shapeOf, startLoad } from './load-run.ts';
import { median, type Report } from './report.ts';

const VGPUS = 64;
const MINUTES = Number(process.env.MINUTES ?? 10);
/** Part of the run after which memory is compared with that at the end. */
const EARLY = 0.1;
const GROWTH_BOUND = 1.1;
/** Samples around each time: garbage is collected now and then. */
const SAMPLES = 20;
const SAMPLE_MS = 500;

/** Returns the resident memory of a process in MiB. */
function residentMiB(pid: number): number {
  const [, kib] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kib) / 1024;
}

async function sample(pid: number): Promise<number> {
  const values: number[] = [];
  for (let i = 0; i < SAMPLES; i++) {
    values.push(residentMiB(pid));
    await sleep(SAMPLE_MS);
  }
  return median(values);
}

export async function benchLoadMemory(report: Report): Promise<void> {
  const seconds = MINUTES * 60;
  const samplesMs = SAMPLES * SAMPLE_MS;
  const scenario = {
    name: 'bench-load-memory',
    ...shapeOf(VGPUS),
    load: {
      open: {
        executor: 'constant-arrival-rate',
        rate: 500,
        maxVUs: 16,
        duration: `${seconds}s`,
        workload: 'copy',
      },
      closed: {
        executor: 'constant-vus',
        vus: 2,
        duration: `${seconds}s`,
        workload: { fill: 3, 'dma-churn': 1 },
      },
    },
    thresholds: { dropped_iterations: ['count>=0'], command_latency: ['p(99)<1h over 10s'] },
  };
  const { process: command, result } = startLoad('memory.json', JSON.stringify(scenario));
  const pid = command.pid!;
  result.catch(() => {});
  const startedMs = performance.now();
  // 64 devices and 4 guests start first; the time of the run counts from its start.
  const until = (ms: number) => sleep(Math.max(0, startedMs + ms - performance.now()));
  await until(seconds * 1000 * EARLY);
  const early = await sample(pid);
  await until(seconds * 1000 - samplesMs);
  const late = await sample(pid);
  await result;
  report.say(
    `load-memory: the command has ${early.toFixed(0)} MiB after ${MINUTES * EARLY} min, ${late.toFixed(0)} after ${MINUTES}`,
  );
  report.bound(
    `memory of the command after ${MINUTES} min to ${MINUTES * EARLY}`,
    late / early,
    '≤',
    GROWTH_BOUND,
  );
}
