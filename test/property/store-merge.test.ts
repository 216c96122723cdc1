/**
 * Merging the metrics of the parts of a run equals the metrics of the whole run.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { compileThresholds } from '../../src/load/compile.ts';
import { Metrics } from '../../src/metrics/metrics.ts';
import { MetricStore, type StoreData } from '../../src/metrics/store.ts';

const THRESHOLDS = compileThresholds(
  {
    command_latency: ['p(99)<20ms', 'p(90)<5ms over 7s', 'avg>1us', 'count>5'],
    'command_latency{group:a,stage:s}': ['max<1s'],
    iterations: ['count==3', 'rate<2', 'count<9 over 20s'],
    checks: ['rate>0.5'],
    boot_time: ['max<1s'],
  },
  [],
);

const store = (keepsSeconds: boolean) =>
  new MetricStore(THRESHOLDS, { dividedBy: ['stage', 'group'], keepsSeconds });

/** Gain of a VM at a second. */
const gain = fc.record({
  vm: fc.nat(7),
  second: fc.nat(300),
  stage: fc.constantFrom('s', 't'),
  latencies: fc.array(fc.double({ min: 0, max: 1e8, noNaN: true }), { maxLength: 5 }),
  iterations: fc.nat(3),
  check: fc.option(fc.boolean()),
});
type Gain = typeof gain extends fc.Arbitrary<infer Value> ? Value : never;

function add(to: MetricStore, { vm, second, stage, latencies, iterations, check }: Gain): void {
  const metrics = new Metrics();
  const tagged = metrics.tagged({ stage });
  for (const latency of latencies) tagged.trend('command_latency').add(latency);
  if (iterations > 0) tagged.counter('iterations').add(iterations);
  if (check !== null) metrics.rate('checks').add(check);
  to.merge({ group: vm % 2 === 0 ? 'a' : 'b', vm: String(vm) }, second, metrics.take());
}

/** Rounds numbers, because a sum depends on the order of its terms. */
const rounded = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_, item) => (typeof item === 'number' ? Number(item.toPrecision(5)) : item)),
  );

describe('stores', () => {
  it('of the parts of a run merge to that of the whole, also by way of JSON', () => {
    fc.assert(
      fc.property(
        fc.array(gain, { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 1, max: 4 }),
        (gains, n) => {
          // Guests send in order of time.
          const ordered = gains.toSorted((a, b) => a.second - b.second);
          const seconds = (ordered.at(-1)?.second ?? 0) + 1;
          const whole = store(false);
          const parts = Array.from({ length: n }, () => store(true));
          for (const each of ordered) {
            whole.tick(each.second * 1e6);
            add(whole, each);
            const part = parts[each.vm % n] as MetricStore;
            part.tick(each.second * 1e6);
            add(part, each);
          }
          const merged = store(false);
          for (const part of parts) merged.mergeData(JSON.parse(JSON.stringify(part.data())) as StoreData);
          const byName = (s: MetricStore) =>
            s.summaries(seconds).toSorted((a, b) => key(a.name, a.tags).localeCompare(key(b.name, b.tags)));
          const key = (name: string, tags: object) => `${name} ${JSON.stringify(tags)}`;
          expect(rounded(byName(merged))).to.deep.equal(rounded(byName(whole)));
          expect(rounded(merged.verdicts(seconds))).to.deep.equal(rounded(whole.verdicts(seconds)));
        },
      ),
    );
  });
});
