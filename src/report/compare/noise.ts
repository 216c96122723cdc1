/**
 * Noise of a metric, from the buckets of its time series: two runs of one system differ by it.
 *
 * Buckets of the same time are compared in pairs where both runs have buckets of one length, so that a ramp of the load,
 * which both have, is no noise. Otherwise the buckets of each run vary about their own mean.
 */
import type { StoredMetric } from './stored-run.ts';

/** Least count of buckets, or pairs, that show the noise. */
const BUCKETS_MIN = 5;
/** Standard errors of the ratio that count as noise. */
const ERRORS = 3;
/** Part by which any two values differ: the width of a histogram's bucket. */
const RESOLUTION = 0.01;

/** Returns the part of 1 by which the ratio of two runs may differ from 1 by noise; undefined if both are too short. */
export function noiseOf(a: StoredMetric, b: StoredMetric, aggregation: string): number | undefined {
  const [first, second] = [bucketsOf(a, aggregation), bucketsOf(b, aggregation)];
  const error =
    a.series.seconds === b.series.seconds ? pairedError(first, second) : separateError(first, second);
  return error === undefined ? undefined : ERRORS * error + RESOLUTION;
}

type Buckets = readonly (number | null)[];

/** Returns the values of an aggregation by bucket; empty for one that has no series. */
function bucketsOf({ type, series }: StoredMetric, aggregation: string): Buckets {
  // A counter's sum and rate vary in the same way. Its last bucket is only a part of one.
  if (type === 'counter') return series.count.slice(0, -1).map((count) => count ?? 0);
  const percentile = /^p\(([\d.]+)\)$/.exec(aggregation)?.[1];
  if (percentile !== undefined) return series[nearestPercentile(Number(percentile))] ?? [];
  const list = series[aggregation as 'avg'];
  return Array.isArray(list) ? list : [];
}

/** Returns the series whose percentile is nearest. */
const nearestPercentile = (percentile: number): 'med' | 'p95' | 'p99' =>
  percentile < 75 ? 'med' : percentile < 97 ? 'p95' : 'p99';

/** Returns the standard error of the mean difference of pairs, as a part of the first mean. */
function pairedError(a: Buckets, b: Buckets): number | undefined {
  const pairs = a.flatMap((value, i) => {
    const other = b[i];
    return value === null || other === null || other === undefined ? [] : [[value, other] as const];
  });
  const mean = meanOf(pairs.map(([value]) => value));
  if (pairs.length < BUCKETS_MIN || mean === 0) return undefined;
  return errorOf(pairs.map(([value, other]) => (other - value) / mean));
}

function separateError(a: Buckets, b: Buckets): number | undefined {
  const parts = [a, b].map((buckets) => {
    const values = buckets.filter((value) => value !== null);
    const mean = meanOf(values);
    return values.length < BUCKETS_MIN || mean === 0 ? undefined : errorOf(values) / mean;
  });
  const [first, second] = parts;
  return first === undefined || second === undefined ? undefined : Math.hypot(first, second);
}

const meanOf = (values: readonly number[]): number =>
  values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;

/** Returns the standard error of the mean. */
function errorOf(values: readonly number[]): number {
  const mean = meanOf(values);
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1) / values.length);
}
