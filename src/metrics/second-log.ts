/**
 * Samples of a metric by second of the run's clock. Parts of a run keep them for conditions over windows, which only the
 * samples of all parts can show.
 */
import { Aggregate, type AggregateData } from './aggregate.ts';
import type { MetricType } from './catalogue.ts';

/** Maximum count of seconds: a day, the longest stage, and its end. Later samples count in the last second. */
const SECONDS_LIMIT = 90_000;
/** Count of the last seconds that may still gain samples; earlier ones take less memory. */
const OPEN_SECONDS = 8;

/** Samples of a second. */
type Second = readonly [second: number, samples: AggregateData];

export class SecondLog {
  readonly #type: MetricType;
  readonly #open = new Map<number, Aggregate>();
  readonly #closed = new Map<number, AggregateData>();

  constructor(type: MetricType) {
    this.#type = type;
  }

  add(second: number, samples: AggregateData): void {
    const at = Math.min(second, SECONDS_LIMIT - 1);
    let open = this.#open.get(at);
    if (!open) {
      open = new Aggregate(this.#type);
      const closed = this.#closed.get(at);
      if (closed) open.merge(closed);
      this.#open.set(at, open);
      this.#close();
    }
    open.merge(samples);
  }

  /** Returns all seconds with samples, in order. */
  data(): Second[] {
    const open = [...this.#open].map(([second, samples]): Second => [second, samples.data()]);
    return [...new Map([...this.#closed, ...open])].sort(([a], [b]) => a - b);
  }

  #close(): void {
    const [first] = this.#open;
    if (this.#open.size <= OPEN_SECONDS || !first) return;
    const [second, samples] = first;
    this.#open.delete(second);
    this.#closed.set(second, samples.data());
  }
}
