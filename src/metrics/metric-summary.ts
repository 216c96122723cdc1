/**
 * A metric in the report: its values over the whole run, its time series, and the histogram of a trend.
 */
import type { Aggregate } from './aggregate.ts';
import type { MetricType } from './catalogue.ts';
import { lowerEdgeOf } from './histogram.ts';
import type { Tags } from './metrics.ts';
import { aggregateValue } from './threshold.ts';
import type { TimeSeries } from './time-series.ts';
import type { Unit } from './units.ts';

/** Percentiles in reports. */
const PERCENTILES = { med: 50, p95: 95, p99: 99 } as const;
/** Digits of a value in a time series. */
const SERIES_DIGITS = 6;

type Bucketed = readonly (number | null)[];

/** Values by bucket; null for a bucket without samples. */
export interface SeriesSummary {
  /** Length of a bucket in seconds. */
  readonly seconds: number;
  /** Samples of each bucket, or the sum of a counter's. */
  readonly count: Bucketed;
  /** Of a rate. */
  readonly rate?: Bucketed;
  /** Of a gauge: its last value. */
  readonly value?: Bucketed;
  /** Of a gauge or a trend. */
  readonly min?: Bucketed;
  readonly max?: Bucketed;
  /** Of a trend. */
  readonly avg?: Bucketed;
  readonly med?: Bucketed;
  readonly p95?: Bucketed;
  readonly p99?: Bucketed;
}

/** Samples by value. A bucket is at most 1/128 wider than its lower edge. */
export interface HistogramSummary {
  /** Lower edge of each bucket that has samples, in ascending order. */
  readonly from: readonly number[];
  readonly counts: readonly number[];
}

/** A metric in the report. Values are in microseconds, bytes or counts, as `unit` says. */
export interface MetricSummary {
  readonly name: string;
  readonly tags: Tags;
  readonly type: MetricType;
  readonly unit: Unit;
  /** By aggregation: `count` and `rate` of a counter, `value`, `min` and `max` of a gauge, and so on. */
  readonly values: Readonly<Record<string, number>>;
  readonly series: SeriesSummary;
  /** Of a trend. */
  readonly histogram?: HistogramSummary;
}

interface Summarized {
  readonly name: string;
  readonly tags: Tags;
  readonly type: MetricType;
  readonly unit: Unit;
  readonly total: Aggregate;
  readonly series: TimeSeries;
}

/** Returns the summary of merged samples for a run of this length. */
export const summaryOf = (
  { name, tags, type, unit, total, series }: Summarized,
  seconds: number,
): MetricSummary => ({
  name,
  tags,
  type,
  unit,
  values: valuesOf(total, type, seconds),
  series: seriesOf(series, type),
  ...(total.histogram && { histogram: histogramOf(total) }),
});

function valuesOf(total: Aggregate, type: MetricType, seconds: number): Record<string, number> {
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
  return values[type]();
}

function seriesOf({ buckets, seconds }: TimeSeries, type: MetricType): SeriesSummary {
  const each = (pick: (bucket: Aggregate) => number): Bucketed =>
    buckets.map((bucket) => (bucket && bucket.count > 0 ? rounded(pick(bucket)) : null));
  const extremes = () => ({ min: each(({ min }) => min), max: each(({ max }) => max) });
  const values: Readonly<Record<MetricType, () => Omit<SeriesSummary, 'seconds'>>> = {
    counter: () => ({ count: each(({ sum }) => sum) }),
    gauge: () => ({ count: each(({ count }) => count), value: each(({ last }) => last), ...extremes() }),
    rate: () => ({ count: each(({ count }) => count), rate: each(({ sum, count }) => sum / count) }),
    trend: () => ({
      count: each(({ count }) => count),
      avg: each(({ sum, count }) => sum / count),
      med: each((bucket) => bucket.percentile(PERCENTILES.med)),
      p95: each((bucket) => bucket.percentile(PERCENTILES.p95)),
      p99: each((bucket) => bucket.percentile(PERCENTILES.p99)),
      ...extremes(),
    }),
  };
  return { seconds, ...values[type]() };
}

/** Rounds a fraction; whole numbers stay exact. */
const rounded = (value: number): number =>
  Number.isInteger(value) ? value : Number(value.toPrecision(SERIES_DIGITS));

function histogramOf({ histogram }: Aggregate): HistogramSummary {
  const { buckets = [], counts = [] } = histogram?.data() ?? {};
  return { from: buckets.map(lowerEdgeOf), counts };
}
