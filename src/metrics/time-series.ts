/**
 * Samples over time in a fixed number of buckets. When a run outgrows them, neighbours are merged, so that memory does
 * not grow with the run's length.
 */
import { Aggregate, type AggregateData } from './aggregate.ts';
import type { MetricType } from './catalogue.ts';

/** Maximum count of buckets. */
export const SERIES_BUCKETS = 120;

export class TimeSeries {
  /** Length of a bucket. */
  seconds = 1;
  #buckets: (Aggregate | undefined)[] = [];
  readonly #type: MetricType;

  constructor(type: MetricType) {
    this.#type = type;
  }

  /** Adds samples of this second of the run's clock, from 0. */
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
