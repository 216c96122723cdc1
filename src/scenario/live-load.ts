/**
 * The state of a load while it runs, from the metrics that have arrived: totals of the stages, rates and latencies of the
 * last few seconds, thresholds so far.
 */
import { nowUs } from '#host';
import { lengthOf, type Stage } from '../load/compile.ts';
import type { GroupVm } from '../load/groups.ts';
import type { MetricStore } from '../metrics/store.ts';
import type { LiveLoad, LiveStage } from '../report/live.ts';
import type { RunEvent } from '../report/record.ts';

const US_PER_SECOND = 1e6;
/** Time over which rates and latencies are taken. Guests report once a second, not all at the same time. */
const RECENT_SECONDS = 4;
/** Least time between two samples of the counters. */
const SAMPLE_US = US_PER_SECOND;

/** Values that {@link LiveView.state} adds to the metrics. */
interface LiveFacts {
  /** Start of the run's clock, on the scale of `nowUs()`; undefined before its start. */
  readonly startUs: number | undefined;
  readonly vmsInAll: number;
  readonly running: Iterable<number>;
  readonly events: readonly RunEvent[];
}

interface CounterSample {
  readonly us: number;
  readonly commands: number;
  readonly iterations: number;
}

export class LiveView {
  readonly #store: MetricStore;
  readonly #stages: readonly Omit<LiveStage, 'iterations' | 'dropped'>[];
  /** Count of vGPUs of each VM. */
  readonly #vgpus: readonly number[];
  /** Samples of the last RECENT_SECONDS, the oldest first. */
  #samples: CounterSample[] = [];

  constructor(
    store: MetricStore,
    stages: readonly Stage[],
    vms: readonly GroupVm[],
    vgpus: readonly number[],
  ) {
    this.#store = store;
    this.#vgpus = vgpus;
    this.#stages = stages.map((stage) => ({
      name: stage.name,
      startSeconds: stage.startUs / US_PER_SECOND,
      endSeconds: (stage.startUs + lengthOf(stage)) / US_PER_SECOND,
      total: totalOf(stage, vms),
      measured: stage.measured,
    }));
  }

  state({ startUs, vmsInAll, running, events }: LiveFacts): LiveLoad {
    const vms = [...running];
    const seconds = startUs === undefined ? undefined : Math.max(0, (nowUs() - startUs) / US_PER_SECOND);
    const clock = seconds ?? 0;
    return {
      seconds,
      vmsInAll,
      vms: vms.length,
      vgpus: vms.reduce((sum, vm) => sum + (this.#vgpus[vm] ?? 0), 0),
      stages: this.#stages.map((stage) => ({
        ...stage,
        iterations: this.#count('iterations', stage.name),
        dropped: this.#count('dropped_iterations', stage.name),
      })),
      ...this.#rates(),
      p99Us: this.#store.recent('command_latency', clock - RECENT_SECONDS)?.percentile(99),
      thresholds: this.#store.thresholdsSoFar(clock),
      events,
    };
  }

  #count(name: string, stage?: string): number {
    return this.#store.total(name, stage === undefined ? {} : { stage })?.sum ?? 0;
  }

  #rates(): Pick<LiveLoad, 'commandsPerSecond' | 'iterationsPerSecond'> {
    const now = { us: nowUs(), commands: this.#count('commands'), iterations: this.#count('iterations') };
    const last = this.#samples.at(-1);
    if (!last || now.us - last.us >= SAMPLE_US) this.#samples.push(now);
    while (
      this.#samples.length > 1 &&
      now.us - (this.#samples[0] as CounterSample).us > RECENT_SECONDS * US_PER_SECOND
    )
      this.#samples.shift();
    const first = this.#samples[0] as CounterSample;
    const seconds = Math.max(1, (now.us - first.us) / US_PER_SECOND);
    return {
      commandsPerSecond: (now.commands - first.commands) / seconds,
      iterationsPerSecond: (now.iterations - first.iterations) / seconds,
    };
  }
}

/** Returns the count of iterations after which a stage ends; undefined if it ends by time. */
function totalOf({ pattern, group }: Stage, vms: readonly GroupVm[]): number | undefined {
  if (pattern.kind === 'shared') return pattern.iterations;
  if (pattern.kind !== 'per-vu') return undefined;
  const vgpus = vms
    .filter(({ name }) => group === undefined || name === group)
    .reduce((sum, vm) => sum + vm.vgpus, 0);
  return pattern.iterations * pattern.vus * vgpus;
}
