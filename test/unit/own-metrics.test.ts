/**
 * Metrics of a script's own: their limits, and thresholds on them.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Metrics, SERIES_LIMIT } from '../../src/metrics/metrics.ts';
import { parseSelector } from '../../src/metrics/selector.ts';
import { MetricStore, SUMMARIES_LIMIT } from '../../src/metrics/store.ts';
import { parseCondition, type Threshold } from '../../src/metrics/threshold.ts';
import { NO_LOAD, thresholdLines } from '../../src/report/load-report.ts';
import { summarize } from '../../src/report/summary.ts';
import { RUN_FACTS } from '../fixtures/run-results.ts';

const threshold = (metric: string, condition: string): Threshold => {
  const selector = parseSelector(metric, true);
  const parsed = parseCondition(condition, selector);
  return { selector, condition: parsed, abortOnFail: false, delayAbortEvalUs: 0, implied: false };
};

/** Returns the verdict on one threshold after what `work` adds. */
function judged(metric: string, condition: string, work: (metrics: Metrics) => void) {
  const store = new MetricStore([threshold(metric, condition)]);
  const metrics = new Metrics();
  work(metrics);
  store.merge({ group: 'all', vm: '0' }, 0, metrics.take());
  const [verdict] = store.verdicts(1);
  return [verdict?.ok, verdict?.text];
}

describe("a script's own metrics", () => {
  it('are refused with names and tags that no metric may have', () => {
    const metrics = new Metrics();
    const refused: readonly (readonly [work: () => unknown, error: string])[] = [
      [
        () => metrics.trend('2fast'),
        "metric '2fast'; accepted: up to 64 letters, digits and _, a letter at the start",
      ],
      [
        () => metrics.tagged({ 'a-b': 'x' }).trend('own'),
        "tag 'a-b' of metric own; accepted: up to 64 letters, digits and _, a letter at the start",
      ],
      [
        () => metrics.tagged({ vm: '7' }).trend('own'),
        "tag 'vm' of metric own, which the run sets; accepted: another name",
      ],
      [
        () => metrics.tagged({ colour: 5 as unknown as string }).trend('own'),
        "tag 'colour' of metric own is of type number; accepted: texts of up to 64 characters",
      ],
      [
        () => metrics.tagged({ colour: 'x'.repeat(65) }).trend('own'),
        "tag 'colour' of metric own is a text of 65 characters; accepted: texts of up to 64 characters",
      ],
      [
        () =>
          metrics
            .tagged(Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`t${i}`, ''])))
            .trend('own'),
        '17 tags of metric own; accepted: up to 16',
      ],
    ];
    for (const [work, error] of refused) expect(work).to.throw(RangeError, error);
    metrics.counter('own');
    expect(() => metrics.trend('own')).to.throw(TypeError, 'metric own is a counter, not a trend');
    expect(() => metrics.counter('command_latency')).to.throw(TypeError, 'is a trend, not a counter');
  });

  it('are at most so many series, and the error names the metric that has the most', () => {
    const metrics = new Metrics();
    metrics.counter('few').add();
    for (let i = 0; i < SERIES_LIMIT - 1; i++)
      metrics
        .tagged({ page: String(i) })
        .counter('many')
        .add();
    expect(() => metrics.tagged({ page: 'x' }).counter('many')).to.throw(
      RangeError,
      `metric many with tags {"page":"x"} is one series too many; accepted: ${SERIES_LIMIT} series of a guest, and many (${SERIES_LIMIT - 1}) has the most: use tags with fewer values`,
    );
    metrics.tagged({ page: '7' }).counter('many').add();
    expect(metrics.take(), 'the others still work').to.have.length(SERIES_LIMIT);
  });

  it('have series of their own for tags that read alike', () => {
    const metrics = new Metrics();
    metrics.tagged({ a: '1 b,2' }).counter('own').add(1);
    metrics.tagged({ a: '1', b: '2' }).counter('own').add(5);
    expect(metrics.take().map(({ sum }) => sum)).to.deep.equal([1, 5]);
  });

  it('fail the run if they are of different types in different VMs', () => {
    const store = new MetricStore([]);
    const [first, second] = [new Metrics(), new Metrics()];
    first.counter('own').add(3);
    second.trend('own').add(5);
    store.merge({ vm: '0' }, 0, first.take());
    store.merge({ vm: '1' }, 0, second.take());
    expect(store.conflicts).to.deep.equal(['metric own is a counter in one VM and a trend in another']);
    expect(store.summaries(1)[0]?.values.count, 'only the first type is kept').to.equal(3);
    const summary = summarize(RUN_FACTS, new Map(), [], [], { ...NO_LOAD, conflicts: store.conflicts });
    expect([summary.exitCode, summary.problems]).to.deep.equal([107, store.conflicts]);
  });

  it('beyond the limit of the report are counted, and their thresholds judged nevertheless', () => {
    const store = new MetricStore([threshold(`own${SUMMARIES_LIMIT + 5}`, 'count==2')]);
    const metrics = new Metrics();
    for (let i = 0; i < SUMMARIES_LIMIT + 10; i++) metrics.counter(`own${i}`).add(2);
    store.merge({}, 0, metrics.take());
    expect(store.summaries(1)).to.have.length(SUMMARIES_LIMIT);
    expect(store.samplesCut).to.equal(10);
    expect(store.verdicts(1)[0]?.ok).to.equal(true);
    expect(thresholdLines({ ...NO_LOAD, samplesCut: 10 }).join()).to.include(
      '10 samples are in none of the metrics',
    );
  });
});

describe("thresholds on a script's own metrics", () => {
  it('name the nearest metric if there is none of that name', () => {
    const work = (metrics: Metrics) => metrics.trend('round').add(5);
    expect(judged('ruond', 'max<1h', work)).to.deep.equal([false, 'no samples; nearest: round']);
    expect(judged('round{colour:red}', 'max<1h', work)).to.deep.equal([false, 'no samples with these tags']);
    expect(judged('round', 'max<1h', work)).to.deep.equal([true, '5.00us']);
    expect(judged('fault_latency', 'max<1h', work)).to.deep.equal([false, 'no samples']);
  });

  it('fail for an aggregation that its type does not have', () => {
    expect(judged('own', 'p(99)<5', (metrics) => metrics.counter('own').add())).to.deep.equal([
      false,
      'no p(N) of a counter; accepted: count, rate',
    ]);
    expect(judged('own', 'value<5', (metrics) => metrics.trend('own').add(1))).to.deep.equal([
      false,
      'no value of a trend; accepted: avg, min, med, max, p(N), count',
    ]);
  });
});
