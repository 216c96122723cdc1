/**
 * An aggregate without room for more samples: a few bytes for each bucket of its histogram that has any.
 */
import { Aggregate, type AggregateData } from './aggregate.ts';
import type { MetricType } from './catalogue.ts';

export class PackedAggregate {
  readonly #facts: AggregateData;
  readonly #buckets: Uint32Array;
  readonly #counts: Float64Array;

  constructor(samples: Aggregate) {
    const { histogram, ...facts } = samples.data();
    this.#facts = facts;
    this.#buckets = Uint32Array.from(histogram?.buckets ?? []);
    this.#counts = Float64Array.from(histogram?.counts ?? []);
  }

  data(type: MetricType): AggregateData {
    if (type !== 'trend') return this.#facts;
    return { ...this.#facts, histogram: { buckets: [...this.#buckets], counts: [...this.#counts] } };
  }

  unpack(type: MetricType): Aggregate {
    const samples = new Aggregate(type);
    samples.merge(this.data(type));
    return samples;
  }
}
