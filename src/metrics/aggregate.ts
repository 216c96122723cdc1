/**
 * Merged samples of one metric.
 */
import type { MetricType } from './catalogue.ts';
import { Histogram, type HistogramData } from './histogram.ts';

/** Content of an aggregate. */
export interface AggregateData {
  readonly count: number;
  readonly sum: number;
  readonly min: number;
  readonly max: number;
  readonly last: number;
  /** Of a trend. */
  readonly histogram?: HistogramData | undefined;
}

export class Aggregate {
  count = 0;
  sum = 0;
  min: number = Number.POSITIVE_INFINITY;
  max: number = Number.NEGATIVE_INFINITY;
  last = 0;
  readonly histogram: Histogram | undefined;

  constructor(type: MetricType) {
    this.histogram = type === 'trend' ? new Histogram() : undefined;
  }

  add(value: number): void {
    this.count++;
    this.sum += value;
    if (value < this.min) this.min = value;
    if (value > this.max) this.max = value;
    this.last = value;
    this.histogram?.add(value);
  }

  merge(other: AggregateData): void {
    if (other.count === 0) return;
    this.count += other.count;
    this.sum += other.sum;
    this.min = Math.min(this.min, other.min);
    this.max = Math.max(this.max, other.max);
    this.last = other.last;
    if (other.histogram) this.histogram?.merge(other.histogram);
  }

  data(): AggregateData {
    const { count, sum, min, max, last } = this;
    return { count, sum, min, max, last, histogram: this.histogram?.data() };
  }

  clear(): void {
    this.count = 0;
    this.sum = 0;
    this.min = Number.POSITIVE_INFINITY;
    this.max = Number.NEGATIVE_INFINITY;
    this.histogram?.clear();
  }

  /** Returns a percentile by the nearest rank, within 0.4 %; NaN without samples. */
  percentile(p: number): number {
    if (this.count === 0) return Number.NaN;
    const rank = Math.max(1, Math.ceil((p / 100) * this.count));
    const middle = this.histogram?.valueAtRank(rank) ?? this.max;
    return Math.min(this.max, Math.max(this.min, middle));
  }
}
