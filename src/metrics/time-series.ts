/**
 * Samples over time in a fixed number of buckets. When a run outgrows them, neighbours are merged, so that memory does
 * not grow with the run's length.
 */
import { Aggregate, type AggregateData } from './aggregate.ts';
import type { MetricType } from './catalogue.ts';

/** Maximum count of buckets. */
export const SERIES_BUCKETS = 120;

/** Content of a time series. */
export interface SeriesData {
  /** Length of a bucket. */
  readonly seconds: number;
  /** Null for a bucket without samples. */
  readonly buckets: readonly (AggregateData | null)[];
}

export class TimeSeries {
  /** Length of a bucket. */
  seconds: number;
  #buckets: (Aggregate | undefined)[] = [];
  readonly #type: MetricType;

  /** @param seconds first length of a bucket */
  constructor(type: MetricType, seconds = 1) {
    this.#type = type;
    this.seconds = seconds;
  }

  /** Adds samples of this time of the run's clock, from 0. */
  add(second: number, samples: AggregateData): void {
    while (second >= this.seconds * SERIES_BUCKETS) this.#pairUp();
    const at = Math.floor(second / this.seconds);
    this.#buckets[at] ??= new Aggregate(this.#type);
    this.#buckets[at]?.merge(samples);
  }

  /** Returns the buckets from second 0 on; undefined for one without samples. */
  get buckets(): readonly (Aggregate | undefined)[] {
    return Array.from(this.#buckets);
  }

  data(): SeriesData {
    return { seconds: this.seconds, buckets: this.buckets.map((bucket) => bucket?.data() ?? null) };
  }

  /** Adds the samples of another series, whose buckets may have another length. */
  merge({ seconds, buckets }: SeriesData): void {
    while (this.seconds < seconds) this.#pairUp();
    for (const [at, samples] of buckets.entries()) if (samples) this.add(at * seconds, samples);
  }

  #pairUp(): void {
    const halves: (Aggregate | undefined)[] = [];
    for (const [at, bucket] of this.#buckets.entries()) {
      if (!bucket) continue;
      const half = Math.floor(at / 2);
      const first = halves[half];
      if (first) first.merge(bucket.data());
      else halves[half] = bucket;
    }
    this.#buckets = halves;
    this.seconds *= 2;
  }
}
