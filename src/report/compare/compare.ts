/**
 * Comparison of two runs, metric by metric.
 */
import { Aggregate } from '../../metrics/aggregate.ts';
import { bucketOf } from '../../metrics/histogram.ts';
import { aggregateValue, unitOf } from '../../metrics/threshold.ts';
import type { Unit } from '../../metrics/units.ts';
import { type Difference, differences } from '../../platform/difference.ts';
import { noiseOf } from './noise.ts';
import type { StoredMetric, StoredRun } from './stored-run.ts';

/** Maximum count of differences of the settings. */
const DIFFERENCES_LIMIT = 20;

/** Aggregations that are compared, by type of the metric. */
const COMPARED: Readonly<Record<StoredMetric['type'], readonly string[]>> = {
  counter: ['rate'],
  gauge: ['value'],
  rate: ['rate'],
  trend: ['med', 'p(95)', 'p(99)'],
};

/** One value of both runs. */
export interface ComparedValue {
  /** The metric with its tags, such as `command_latency{stage:web}`. */
  readonly metric: string;
  readonly aggregation: string;
  /** Unit of the values; of a counter's rate per second. */
  readonly unit: Unit;
  readonly a: number;
  readonly b: number;
  /** b / a; null if a is 0. */
  readonly ratio: number | null;
  /** Part of 1 by which the ratio may differ from 1 by noise; null for runs that are too short to show it. */
  readonly noise: number | null;
  /** True if the ratio is beyond the noise; null if the noise is not known. */
  readonly isBeyond: boolean | null;
}

export interface Comparison {
  readonly values: readonly ComparedValue[];
  /** Metrics with their tags that only one run has. */
  readonly onlyInA: readonly string[];
  readonly onlyInB: readonly string[];
  /** Settings that differ, the first ones. */
  readonly settings: readonly Difference[];
}

/** Compares all metrics that both runs have. */
export function compareRuns(a: StoredRun, b: StoredRun): Comparison {
  const [inA, inB] = [metricsOf(a), metricsOf(b)];
  const values = [...inA].flatMap(([text, first]) => {
    const second = inB.get(text);
    if (!second || second.type !== first.type) return [];
    return COMPARED[first.type].flatMap(
      (aggregation) => comparedValue(first, second, aggregation, [a, b]) ?? [],
    );
  });
  const isIn = (other: ReadonlyMap<string, StoredMetric>) => (text: string) => !other.has(text);
  return {
    values,
    onlyInA: [...inA.keys()].filter(isIn(inB)),
    onlyInB: [...inB.keys()].filter(isIn(inA)),
    settings: [...differences(a.settings, b.settings, '')].slice(0, DIFFERENCES_LIMIT),
  };
}

/** Returns the metrics of a run by their text. */
export const metricsOf = (run: StoredRun): ReadonlyMap<string, StoredMetric> =>
  new Map(run.load.metrics.map((metric) => [metricText(metric), metric]));

function metricText({ name, tags }: StoredMetric): string {
  const list = Object.entries(tags).map(([tag, value]) => `${tag}:${value}`);
  return list.length === 0 ? name : `${name}{${list.join(',')}}`;
}

/** Compares one value; undefined if one run has no samples. */
export function comparedValue(
  first: StoredMetric,
  second: StoredMetric,
  aggregation: string,
  [runA, runB]: readonly [StoredRun, StoredRun],
): ComparedValue | undefined {
  const [a, b] = [observedValue(first, aggregation, runA), observedValue(second, aggregation, runB)];
  if (Number.isNaN(a) || Number.isNaN(b)) return undefined;
  const ratio = a === b ? 1 : a === 0 ? null : b / a;
  const noise = noiseOf(first, second, aggregation) ?? null;
  return {
    metric: metricText(first),
    aggregation,
    // A counter's rate has the counter's unit, per second.
    unit: first.type === 'counter' ? first.unit : unitOf(aggregation, first.type, first.unit),
    a,
    b,
    ratio,
    noise,
    isBeyond: noise === null ? null : ratio === null || Math.abs(ratio - 1) > noise,
  };
}

/** Returns a value of a metric; NaN without samples. */
function observedValue(metric: StoredMetric, aggregation: string, { load }: StoredRun): number {
  const { type, values, histogram } = metric;
  const { count, avg, min, max } = values;
  if (type !== 'trend' || !histogram) return values[aggregation] ?? Number.NaN;
  const samples = new Aggregate('trend');
  samples.merge({
    count: count ?? 0,
    sum: (avg ?? 0) * (count ?? 0),
    min: min ?? 0,
    max: max ?? 0,
    last: 0,
    histogram: { buckets: histogram.from.map(bucketOf), counts: histogram.counts },
  });
  const percentile = Number(/^p\((.*)\)$/.exec(aggregation)?.[1] ?? 0);
  const name = aggregation.replace(/\(.*/, '');
  return aggregateValue({ aggregation: name, percentile }, samples, type, load.seconds);
}
