/**
 * The metrics of a run: merges what guests and hosts send, in total, by stage, by group and
 * by the selectors of the thresholds.
 */
import { nearest } from '../platform/nearest.ts';
import { Aggregate, type AggregateData } from './aggregate.ts';
import { METRICS, type MetricType } from './catalogue.ts';
import { type MetricSummary, summaryOf } from './metric-summary.ts';
import type { MetricChange, Tags } from './metrics.ts';
import { type Selector, selects } from './selector.ts';
import type { Threshold } from './threshold.ts';
import { type JudgeData, ThresholdJudge, type ThresholdState, type Verdict } from './threshold-judge.ts';
import { type SeriesData, TimeSeries } from './time-series.ts';
import type { Unit } from './units.ts';

/** Maximum count of aggregates in the report: totals, and those by stage or group. Further ones are not kept. */
export const SUMMARIES_LIMIT = 2048;

/** Maximum count of conflicts that are named. */
const CONFLICTS_LIMIT = 16;

/** Merged samples of a selector. */
interface Sink {
  readonly selector: Selector;
  readonly type: MetricType;
  readonly unit: Unit;
  readonly total: Aggregate;
  readonly series: TimeSeries;
}

/** All that a store has, as plain JSON. Stores of parts of a run merge to that of the whole. */
export interface StoreData {
  readonly metrics: readonly {
    readonly name: string;
    readonly tags: Tags;
    readonly type: MetricType;
    readonly unit: Unit;
    readonly total: AggregateData;
    readonly series: SeriesData;
  }[];
  /** In the order of the thresholds. */
  readonly judges: readonly JudgeData[];
}

interface StoreOptions {
  /** First length of the buckets of time series. */
  readonly bucketSeconds?: number;
  /** Tags by which metrics are divided in the report. */
  readonly dividedBy?: readonly ('stage' | 'group')[];
  /** True if {@link MetricStore.data} must have all that the thresholds of a whole run need from its parts. */
  readonly keepsSeconds?: boolean;
}

export class MetricStore {
  readonly #sinks = new Map<string, Sink>();
  readonly #judges: readonly ThresholdJudge[];
  readonly #bucketSeconds: number;
  readonly #dividedBy: readonly ('stage' | 'group')[];
  readonly #conflicts = new Map<string, string>();
  #samplesCut = 0;

  constructor(
    thresholds: readonly Threshold[],
    { bucketSeconds = 1, dividedBy = ['stage'], keepsSeconds = false }: StoreOptions = {},
  ) {
    this.#bucketSeconds = bucketSeconds;
    this.#dividedBy = dividedBy;
    this.#judges = thresholds.map((threshold) => new ThresholdJudge(threshold, keepsSeconds));
  }

  /** Adds what was gained in a second of the run's clock. `tags` name the origin: group and VM. */
  merge(tags: Tags, second: number, changes: readonly MetricChange[]): void {
    for (const change of changes) {
      const all = { ...change.tags, ...tags };
      this.#add(this.#sink(change, {}), second, change);
      for (const tag of this.#dividedBy) {
        const value = all[tag];
        if (value !== undefined) this.#add(this.#sink(change, { [tag]: value }), second, change);
      }
      for (const judge of this.#judges)
        if (judge.threshold.selector.name === change.name && selects(judge.threshold.selector, all))
          judge.add(Math.floor(second), change);
    }
  }

  /** Adds one value of a built-in metric. */
  record(name: string, tags: Tags, second: number, value: number): void {
    const { type, unit } = METRICS[name] ?? { type: 'counter', unit: 'count' };
    const samples = new Aggregate(type);
    samples.add(value);
    this.merge({}, second, [{ name, type, unit, tags, ...samples.data() }]);
  }

  /** Judges the windows that have ended; returns the first threshold that must abort the run. */
  tick(us: number): Threshold | undefined {
    const seconds = us / 1e6;
    for (const judge of this.#judges) judge.tick(seconds);
    return this.#judges.find((judge) => judge.aborts(us))?.threshold;
  }

  /** Returns the samples of a metric so far; undefined without samples. @param tags none, or one that divides metrics */
  total(name: string, tags: Tags = {}): Aggregate | undefined {
    return this.#sinks.get(sinkName(name, tags))?.total;
  }

  /** Returns the samples of a metric from this second of the run's clock on, to whole buckets; undefined without samples. */
  recent(name: string, fromSecond: number): Aggregate | undefined {
    return this.#sinks.get(name)?.series.since(fromSecond);
  }

  /** Returns the state of each threshold, at this second of the run's clock. */
  thresholdsSoFar(seconds: number): readonly ThresholdState[] {
    return this.#judges.map((judge) => judge.soFar(seconds));
  }

  /** Returns the verdict on each threshold, for a run of this length. */
  verdicts(seconds: number): readonly Verdict[] {
    return this.#judges.map((judge) => judge.verdict(seconds, this.#absenceOf(judge.threshold.selector)));
  }

  /** Returns why a selector has no samples: the metric has none, or none with these tags. */
  #absenceOf({ name, tags }: Selector): string {
    const names = new Set([...this.#sinks.values()].map(({ selector }) => selector.name));
    if (names.has(name)) return Object.keys(tags).length > 0 ? 'no samples with these tags' : 'no samples';
    const isOwn = !(name in METRICS) && names.size > 0;
    return isOwn ? `no samples; nearest: ${nearest(name, names)}` : 'no samples';
  }

  /** Names of metrics that are of different types in different VMs. Only the first type is kept. */
  get conflicts(): readonly string[] {
    return [...this.#conflicts.values()];
  }

  /** Count of samples that are in no metric of the report, because there were too many metrics. */
  get samplesCut(): number {
    return this.#samplesCut;
  }

  data(): StoreData {
    const metrics = [...this.#sinks.values()].map(
      ({ selector: { name, tags }, type, unit, total, series }) => ({
        name,
        tags,
        type,
        unit,
        total: total.data(),
        series: series.data(),
      }),
    );
    return { metrics, judges: this.#judges.map((judge) => judge.data()) };
  }

  /** Adds what the store of another part of the run has. Its thresholds must be the same. */
  mergeData({ metrics, judges }: StoreData): void {
    for (const { tags, total, series, ...metric } of metrics) {
      const sink = this.#sink(metric, tags);
      sink?.total.merge(total);
      sink?.series.merge(series);
    }
    for (const [i, data] of judges.entries()) this.#judges[i]?.mergeData(data);
  }

  /** Returns every metric in total, by stage and by group. */
  summaries(seconds: number): readonly MetricSummary[] {
    return [...this.#sinks.values()].map((sink) => summaryOf({ ...sink, ...sink.selector }, seconds));
  }

  /** Returns the aggregate with these tags; undefined for a new one beyond the limit. */
  #sink({ name, type, unit }: Pick<MetricChange, 'name' | 'type' | 'unit'>, tags: Tags): Sink | undefined {
    const text = sinkName(name, tags);
    let sink = this.#sinks.get(text);
    if (!sink && this.#sinks.size < SUMMARIES_LIMIT) {
      const parts = { total: new Aggregate(type), series: new TimeSeries(type, this.#bucketSeconds) };
      sink = { selector: { text, name, tags }, type, unit, ...parts };
      this.#sinks.set(text, sink);
    }
    return sink;
  }

  #add(sink: Sink | undefined, second: number, change: MetricChange): void {
    if (!sink) this.#samplesCut += change.count;
    else if (sink.type !== change.type) this.#noteConflict(sink, change);
    else {
      sink.total.merge(change);
      sink.series.add(second, change);
    }
  }

  #noteConflict({ type }: Sink, { name, type: other }: MetricChange): void {
    if (this.#conflicts.size < CONFLICTS_LIMIT)
      this.#conflicts.set(name, `metric ${name} is a ${type} in one VM and a ${other} in another`);
  }
}

/** Returns the name of a metric with at most one tag. */
function sinkName(name: string, tags: Tags): string {
  const [pair] = Object.entries(tags);
  return pair ? `${name}{${pair[0]}:${pair[1]}}` : name;
}
