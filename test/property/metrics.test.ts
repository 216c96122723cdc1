/**
 * Metrics: percentiles within 1 % of the raw samples, and a merge that equals the whole.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { Aggregate } from '../../src/metrics/aggregate.ts';
import { SERIES_BUCKETS, TimeSeries } from '../../src/metrics/time-series.ts';

/** Latencies from 1 ns to a day, in microseconds, spread over all powers of ten. */
const latency = fc
  .tuple(fc.integer({ min: -3, max: 10 }), fc.double({ min: 1, max: 10, noNaN: true }))
  .map(([power, digits]) => digits * 10 ** power);
const samples = fc.array(latency, { minLength: 1, maxLength: 300 });

const aggregated = (values: readonly number[]): Aggregate => {
  const aggregate = new Aggregate('trend');
  for (const value of values) aggregate.add(value);
  return aggregate;
};

const rawPercentile = (values: readonly number[], p: number): number => {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(1, Math.ceil((p / 100) * sorted.length)) - 1] as number;
};

describe('trends', () => {
  it('have percentiles within 1 % of the raw samples', () => {
    fc.assert(
      fc.property(samples, fc.double({ min: 0, max: 100, noNaN: true }), (values, p) => {
        const raw = rawPercentile(values, p);
        expect(aggregated(values).percentile(p)).to.be.closeTo(raw, raw * 0.01);
      }),
    );
  });

  it('merge to the whole, in any division', () => {
    fc.assert(
      fc.property(samples, fc.integer({ min: 1, max: 8 }), (values, parts) => {
        const merged = new Aggregate('trend');
        for (let part = 0; part < parts; part++)
          merged.merge(aggregated(values.filter((_, i) => i % parts === part)).data());
        const whole = aggregated(values);
        expect(merged.data().histogram).to.deep.equal(whole.data().histogram);
        expect([merged.count, merged.min, merged.max]).to.deep.equal([whole.count, whole.min, whole.max]);
        expect(merged.sum).to.be.closeTo(whole.sum, Math.abs(whole.sum) * 1e-9);
      }),
    );
  });
});

describe('time series', () => {
  it('keep every sample in a bounded count of buckets', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 100_000 }), { maxLength: 200 }), (seconds) => {
        const series = new TimeSeries('counter');
        for (const second of seconds) {
          const one = new Aggregate('counter');
          one.add(1);
          series.add(second, one.data());
        }
        expect(series.buckets.length).to.be.at.most(SERIES_BUCKETS);
        series.buckets.forEach((bucket, i) => {
          const inside = seconds.filter((second) => Math.floor(second / series.seconds) === i);
          expect(bucket?.sum ?? 0).to.equal(inside.length);
        });
      }),
    );
  });
});
