/**
 * Sliding windows of a metric: every window of a length that has ended is judged, then its oldest second is dropped.
 */
import { Aggregate, type AggregateData } from './aggregate.ts';
import type { MetricType } from './catalogue.ts';

export class Windows {
  /** The worst value of a window with samples, and its first second. */
  readonly #type: MetricType;
  readonly #length: number;
  readonly #judge: (samples: Aggregate, firstSecond: number) => void;
  readonly #seconds = new Map<number, Aggregate>();
  /** First second of the next window to judge. */
  #next = 0;

  /** @param judge called for every window that has samples, in order */
  constructor(type: MetricType, seconds: number, judge: (samples: Aggregate, firstSecond: number) => void) {
    this.#type = type;
    this.#length = seconds;
    this.#judge = judge;
  }

  /** Adds samples of a second; those of a second that has been judged count in the next window. */
  add(second: number, samples: AggregateData): void {
    const at = Math.max(second, this.#next);
    let bucket = this.#seconds.get(at);
    if (!bucket) {
      bucket = new Aggregate(this.#type);
      this.#seconds.set(at, bucket);
    }
    bucket.merge(samples);
  }

  /** Judges the windows that end at or before `second`, when no more samples of earlier seconds will come. */
  closeUntil(second: number): void {
    for (; this.#next + this.#length <= second; this.#next++) {
      this.#judgeFrom(this.#next);
      this.#seconds.delete(this.#next);
    }
  }

  /** Judges the rest of the run, if it is shorter than one window. */
  end(second: number): void {
    this.closeUntil(second);
    if (this.#next === 0) this.#judgeFrom(0);
  }

  #judgeFrom(first: number): void {
    const window = new Aggregate(this.#type);
    for (let second = first; second < first + this.#length; second++) {
      const samples = this.#seconds.get(second);
      if (samples) window.merge(samples.data());
    }
    if (window.count > 0) this.#judge(window, first);
  }
}
