/**
 * The metrics of a run: merges what guests and hosts send, in total, by stage and by the selectors of the thresholds.
 */
import { Aggregate } from './aggregate.ts';
import { METRICS, type MetricType } from './catalogue.ts';
import { type MetricSummary, summaryOf } from './metric-summary.ts';
import type { MetricChange, Tags } from './metrics.ts';
import { type Selector, selects } from './selector.ts';
import type { Threshold } from './threshold.ts';
import { ThresholdJudge, type Verdict } from './threshold-judge.ts';
import { TimeSeries } from './time-series.ts';
import type { Unit } from './units.ts';

/** Maximum count of aggregates in the report: totals, and those by stage. Further ones are not kept. */
export const SUMMARIES_LIMIT = 2048;

/** Merged samples of a selector. */
interface Sink {
  readonly selector: Selector;
  readonly type: MetricType;
  readonly unit: Unit;
  readonly total: Aggregate;
  readonly series: TimeSeries;
}

export class MetricStore {
  readonly #sinks = new Map<string, Sink>();
  readonly #judges: readonly ThresholdJudge[];
  readonly #bucketSeconds: number;

  /** @param bucketSeconds first length of the buckets of time series */
  constructor(thresholds: readonly Threshold[], bucketSeconds = 1) {
    this.#bucketSeconds = bucketSeconds;
    this.#judges = thresholds.map((threshold) => new ThresholdJudge(threshold));
  }

  /** Adds what was gained in a second of the run's clock. `tags` name the origin: group and VM. */
  merge(tags: Tags, second: number, changes: readonly MetricChange[]): void {
    for (const change of changes) {
      const all = { ...change.tags, ...tags };
      this.#add(this.#sink(change, {}), second, change);
      const { stage } = all;
      if (stage !== undefined) this.#add(this.#sink(change, { stage }), second, change);
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

  /** Returns the verdict on each threshold, for a run of this length. */
  verdicts(seconds: number): readonly Verdict[] {
    return this.#judges.map((judge) => judge.verdict(seconds));
  }

  /** Returns every metric in total and by stage. */
  summaries(seconds: number): readonly MetricSummary[] {
    return [...this.#sinks.values()].map((sink) => summaryOf({ ...sink, ...sink.selector }, seconds));
  }

  /** Returns the aggregate with these tags; undefined for a new one beyond the limit. */
  #sink({ name, type, unit }: MetricChange, tags: Tags): Sink | undefined {
    const text = tags.stage === undefined ? name : `${name}{stage:${tags.stage}}`;
    let sink = this.#sinks.get(text);
    if (!sink && this.#sinks.size < SUMMARIES_LIMIT) {
      const parts = { total: new Aggregate(type), series: new TimeSeries(type, this.#bucketSeconds) };
      sink = { selector: { text, name, tags }, type, unit, ...parts };
      this.#sinks.set(text, sink);
    }
    return sink;
  }

  #add(sink: Sink | undefined, second: number, change: MetricChange): void {
    sink?.total.merge(change);
    sink?.series.add(second, change);
  }
}
