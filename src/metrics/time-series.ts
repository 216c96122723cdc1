/**
 * Samples over time in a fixed number of buckets. When a run outgrows them, neighbours are merged, so that memory does
 * not grow with the run's length.
 */
import { Aggregate, type AggregateData } from './aggregate.ts';
import type { MetricType } from './catalogue.ts';
import { PackedAggregate } from './packed-aggregate.ts';

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
  /** Buckets but the last one. */
  #buckets: (PackedAggregate | undefined)[] = [];
  /** The bucket that samples are added to, and its place; others are unpacked for them. */
  #open: Aggregate | undefined;
  #at = 0;
  readonly #type: MetricType;

  /** @param seconds first length of a bucket */
  constructor(type: MetricType, seconds = 1) {
    this.#type = type;
    this.seconds = seconds;
  }

  /** Adds samples of this time of the run's clock, from 0. */
  add(second: number, samples: AggregateData): void {
    while (second >= this.seconds * SERIES_BUCKETS) this.#pairUp();
    this.#openAt(Math.floor(second / this.seconds)).merge(samples);
  }

  /** Returns the buckets from second 0 on; undefined for one without samples. */
  get buckets(): readonly (Aggregate | undefined)[] {
    return Array.from(this.#packed(), (bucket) => bucket?.unpack(this.#type));
  }

  /** Returns the samples from this second on, to whole buckets; undefined without any. */
  since(second: number): Aggregate | undefined {
    const first = Math.max(0, Math.floor(second / this.seconds));
    const found = this.#packed()
      .slice(first)
      .filter((bucket) => bucket !== undefined);
    if (found.length === 0) return undefined;
    const samples = new Aggregate(this.#type);
    for (const bucket of found) samples.merge(bucket.data(this.#type));
    return samples;
  }

  data(): SeriesData {
    const buckets = Array.from(this.#packed(), (bucket) => bucket?.data(this.#type) ?? null);
    return { seconds: this.seconds, buckets };
  }

  /** Adds the samples of another series, whose buckets may have another length. */
  merge({ seconds, buckets }: SeriesData): void {
    while (this.seconds < seconds) this.#pairUp();
    for (const [at, samples] of buckets.entries()) if (samples) this.add(at * seconds, samples);
  }

  /** Returns the bucket at this place, unpacked. */
  #openAt(at: number): Aggregate {
    if (this.#open && at === this.#at) return this.#open;
    this.#close();
    this.#at = at;
    this.#open = this.#buckets[at]?.unpack(this.#type) ?? new Aggregate(this.#type);
    return this.#open;
  }

  #close(): void {
    if (this.#open) this.#buckets[this.#at] = new PackedAggregate(this.#open);
    this.#open = undefined;
  }

  /** Returns all buckets. */
  #packed(): readonly (PackedAggregate | undefined)[] {
    this.#close();
    return this.#buckets;
  }

  #pairUp(): void {
    const whole = this.#packed();
    this.#buckets = [];
    this.seconds *= 2;
    for (const [at, bucket] of whole.entries())
      if (bucket) this.#openAt(Math.floor(at / 2)).merge(bucket.data(this.#type));
  }
}
