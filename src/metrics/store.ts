/**
 * The metrics of a run: merges what guests and hosts send, in total, by stage and by the selectors of the thresholds.
 */
import { Aggregate } from './aggregate.ts';
import { METRICS, type MetricType } from './catalogue.ts';
import type { MetricChange, Tags } from './metrics.ts';
import { type Selector, selects } from './selector.ts';
import { aggregateValue, type Threshold } from './threshold.ts';
import { ThresholdJudge, type Verdict } from './threshold-judge.ts';
import { TimeSeries } from './time-series.ts';
import type { Unit } from './units.ts';

/** Maximum count of aggregates in the report: totals, and those by stage. Further ones are not kept. */
export const SUMMARIES_LIMIT = 2048;

/** Percentiles in reports. */
const PERCENTILES = { med: 50, p95: 95, p99: 99 } as const;

/** Merged samples of a selector. */
interface Sink {
  readonly selector: Selector;
  readonly type: MetricType;
  readonly unit: Unit;
  readonly total: Aggregate;
  readonly series: TimeSeries;
}

/** A metric in the report. Values are in microseconds, bytes or counts, as `unit` says. */
export interface MetricSummary {
  readonly name: string;
  readonly tags: Tags;
  readonly type: MetricType;
  readonly unit: Unit;
  /** By aggregation: `count` and `rate` of a counter, `value`, `min` and `max` of a gauge, and so on. */
  readonly values: Readonly<Record<string, number>>;
  readonly series: {
    /** Length of a bucket in seconds. */
    readonly seconds: number;
    /** Samples of each bucket, or the sum of a counter's; null for none. */
    readonly count: readonly (number | null)[];
    /** Of a trend. */
    readonly med?: readonly (number | null)[];
    readonly p99?: readonly (number | null)[];
  };
}

export class MetricStore {
  readonly #sinks = new Map<string, Sink>();
  readonly #judges: readonly ThresholdJudge[];

  constructor(thresholds: readonly Threshold[]) {
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
          judge.add(second, change);
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
    return [...this.#sinks.values()].map((sink) => summaryOf(sink, seconds));
  }

  /** Returns the aggregate with these tags; undefined for a new one beyond the limit. */
  #sink({ name, type, unit }: MetricChange, tags: Tags): Sink | undefined {
    const text = tags.stage === undefined ? name : `${name}{stage:${tags.stage}}`;
    let sink = this.#sinks.get(text);
    if (!sink && this.#sinks.size < SUMMARIES_LIMIT) {
      const parts = { total: new Aggregate(type), series: new TimeSeries(type) };
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

function summaryOf({ selector, type, unit, total, series }: Sink, seconds: number): MetricSummary {
  const value = (aggregation: string, percentile = 0) =>
    aggregateValue({ aggregation, percentile }, total, type, seconds);
  const values: Readonly<Record<MetricType, () => Record<string, number>>> = {
    counter: () => ({ count: value('count'), rate: value('rate') }),
    gauge: () => ({ value: value('value'), min: value('min'), max: value('max') }),
    rate: () => ({ rate: value('rate'), count: total.count }),
    trend: () => ({
      count: value('count'),
      avg: value('avg'),
      min: value('min'),
      ...Object.fromEntries(Object.entries(PERCENTILES).map(([name, p]) => [name, value('p', p)])),
      max: value('max'),
    }),
  };
  const { buckets } = series;
  const each = (pick: (bucket: Aggregate) => number) => buckets.map((b) => (b ? pick(b) : null));
  return {
    name: selector.name,
    tags: selector.tags,
    type,
    unit,
    values: values[type](),
    series: {
      seconds: series.seconds,
      count: each((bucket) => (type === 'counter' ? bucket.sum : bucket.count)),
      ...(type === 'trend' && {
        med: each((bucket) => bucket.percentile(50)),
        p99: each((bucket) => bucket.percentile(99)),
      }),
    },
  };
}
