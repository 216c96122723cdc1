/**
 * Thresholds: selectors, conditions, units, windows, and verdicts.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Aggregate } from '../../src/metrics/aggregate.ts';
import { METRICS } from '../../src/metrics/catalogue.ts';
import { type MetricChange, Metrics, SERIES_LIMIT, type Tags } from '../../src/metrics/metrics.ts';
import { parseSelector } from '../../src/metrics/selector.ts';
import { MetricStore, SUMMARIES_LIMIT } from '../../src/metrics/store.ts';
import { parseCondition, type Threshold } from '../../src/metrics/threshold.ts';
import { formatValue, parseDuration, parseSize } from '../../src/metrics/units.ts';
import { fromMessage, toMessages } from '../../src/metrics/wire.ts';

function threshold(metric: string, condition: string, options: Partial<Threshold> = {}): Threshold {
  const selector = parseSelector(metric, true);
  const parsed = parseCondition(condition, selector);
  return { selector, condition: parsed, abortOnFail: false, delayAbortEvalUs: 0, implied: false, ...options };
}

function change(name: string, values: readonly number[], tags: Tags = {}): MetricChange {
  const { type, unit } = METRICS[name] ?? { type: 'trend', unit: 'time' };
  const samples = new Aggregate(type);
  for (const value of values) samples.add(value);
  return { name, type, unit, tags, ...samples.data() };
}

/** Returns the verdict on one threshold after these changes in second 0 of a run of 10 s. */
function judged(metric: string, condition: string, ...changes: MetricChange[]) {
  const store = new MetricStore([threshold(metric, condition)]);
  store.merge({ group: 'web', vm: '0' }, 0, changes);
  const [verdict] = store.verdicts(10);
  return { ok: verdict?.ok, text: verdict?.text };
}

describe('durations and sizes', () => {
  it('carry their units', () => {
    expect(parseDuration('250us')).to.equal(250);
    expect(parseDuration('1m30s')).to.equal(90e6);
    expect(parseDuration('1.5ms')).to.equal(1500);
    for (const text of ['20', '20 ms', 'ms', '', '1d', '-1s'])
      expect(parseDuration(text)).to.equal(undefined);
    expect(parseSize('4MiB')).to.equal(4 * 2 ** 20);
    for (const text of ['4', '4MB', 'MiB']) expect(parseSize(text)).to.equal(undefined);
  });

  it('are printed with a suitable unit', () => {
    expect([12, 1234, 2_500_000, 0].map((us) => formatValue(us, 'time'))).to.deep.equal([
      '12.0us',
      '1.23ms',
      '2.50s',
      '0.0us',
    ]);
    expect(formatValue(10.5 * 2 ** 20, 'bytes')).to.equal('10.5MiB');
  });
});

describe('conditions', () => {
  const trend = { name: 'command_latency' };
  const refused: readonly (readonly [condition: string, name: string, text: RegExp])[] = [
    [
      'p(99)<20',
      'command_latency',
      /^'20' in 'p\(99\)<20'; accepted for command_latency: a number with us, ms/,
    ],
    ['p(99)<20MiB', 'command_latency', /accepted for command_latency: a number with us/],
    ['p(101)<1s', 'command_latency', /'p\(101\)' in .*accepted: p\(0\) to p\(100\)/],
    ['p()<1s', 'command_latency', /accepted: p\(0\) to p\(100\)/],
    [
      'p<1s',
      'command_latency',
      /no aggregation 'p' of command_latency, a trend; nearest: .*accepted: avg, min, med/,
    ],
    ['meds<1s', 'command_latency', /no aggregation 'meds'.*nearest: med;/],
    ['rate>1', 'command_latency', /no aggregation 'rate'/],
    ['max<20', 'vgpu_rss', /accepted for vgpu_rss: a number with B, KiB/],
    ['count==0s', 'dropped_iterations', /accepted for dropped_iterations: a number without a unit/],
    ['count=0', 'iterations', /'count=0' is no condition; accepted: an aggregation/],
    ['p(99)<20ms over 500ms', 'command_latency', /'over 500ms' .*whole seconds from 1s to 3600s/],
    ['', 'iterations', /'' is no condition/],
  ];
  for (const [condition, name, text] of refused)
    it(`refuse ${condition} of ${name}`, () => {
      expect(() => parseCondition(condition, { name })).to.throw(text);
    });

  it('read every part', () => {
    expect(parseCondition(' p(99.9) <= 1m30s over 10s ', trend)).to.deep.equal({
      text: 'p(99.9) <= 1m30s over 10s',
      aggregation: 'p',
      percentile: 99.9,
      operator: '<=',
      right: '1m30s',
      windowSeconds: 10,
    });
  });
});

describe('selectors', () => {
  it('name a metric and tags', () => {
    const { name, tags } = parseSelector('command_latency{group:web, stage:peak}');
    expect([name, tags]).to.deep.equal(['command_latency', { group: 'web', stage: 'peak' }]);
  });

  it('refuse unknown metrics and tags with the nearest name', () => {
    expect(() => parseSelector('comand_latency')).to.throw(
      /no metric 'comand_latency'; nearest: command_latency/,
    );
    expect(() => parseSelector('iterations{stag:a}')).to.throw(/no tag 'stag' of iterations; nearest: stage/);
    expect(() => parseSelector('iterations{stage}')).to.throw(/'stage' in .* is no tag; accepted: tag:value/);
    expect(() => parseSelector('iterations{stage:a')).to.throw(/is no metric; accepted: name or name\{tag/);
    expect(parseSelector('own_metric{colour:red}', true).tags).to.deep.equal({ colour: 'red' });
  });
});

describe('thresholds', () => {
  it('compare the aggregations of each type', () => {
    const latency = change('command_latency', [1000, 2000, 3000, 50_000]);
    expect(judged('command_latency', 'med<2.1ms', latency)).to.deep.equal({ ok: true, text: '2.00ms' });
    expect(judged('command_latency', 'p(99)<20ms', latency)).to.deep.equal({ ok: false, text: '50.0ms' });
    expect(judged('command_latency', 'avg<15ms', latency)).to.deep.equal({ ok: true, text: '14.0ms' });
    expect(judged('command_latency', 'count==4', latency).ok).to.equal(true);
    expect(judged('iterations', 'rate>2', change('iterations', [30])).text).to.equal('3');
    expect(judged('iterations', 'count!=30', change('iterations', [10, 20])).ok).to.equal(false);
    expect(judged('checks', 'rate>0.99', change('checks', [1, 1, 1, 0])).text).to.equal('0.7500');
    expect(judged('vgpu_rss', 'max<20MiB', change('vgpu_rss', [2 ** 20])).ok).to.equal(true);
  });

  it('take the samples that their tags select', () => {
    const both = [
      change('command_latency', [1000], { stage: 'a' }),
      change('command_latency', [9000], { stage: 'b' }),
    ];
    expect(judged('command_latency{stage:a}', 'max<2ms', ...both).ok).to.equal(true);
    expect(judged('command_latency{group:web,stage:b}', 'max<2ms', ...both).ok).to.equal(false);
    expect(judged('command_latency{group:batch}', 'max<2ms', ...both)).to.deep.equal({
      ok: false,
      text: 'no samples with these tags',
    });
  });

  it('fail without samples, and pass for a counter of 0', () => {
    expect(judged('dropped_iterations', 'count==0')).to.deep.equal({ ok: false, text: 'no samples' });
    expect(judged('dropped_iterations', 'count==0', change('dropped_iterations', [0])).ok).to.equal(true);
  });

  it("check the unit of a script's own metric when it is known", () => {
    const own = { ...change('own', [5]), unit: 'bytes' as const };
    expect(judged('own', 'max<20ms', own)).to.deep.equal({
      ok: false,
      text: 'accepted: a number with B, KiB, MiB or GiB',
    });
    expect(judged('own', 'max<20B', own).ok).to.equal(true);
  });

  it('over windows hold in every one of them', () => {
    const over = (slowSeconds: readonly number[]) => {
      const store = new MetricStore([threshold('command_latency', 'avg<5ms over 3s')]);
      for (let second = 0; second < 12; second++) {
        store.merge({}, second, [change('command_latency', [slowSeconds.includes(second) ? 9000 : 1000])]);
        store.tick(second * 1e6);
      }
      return store.verdicts(12)[0];
    };
    expect(over([])?.ok).to.equal(true);
    // One slow second of three is 3.7 ms on average, two are 6.3 ms. The whole run would hide them.
    expect(over([4])?.ok).to.equal(true);
    expect(over([4, 6])).to.include({ ok: false, text: '6.33ms from 4s on' });
    expect(over([10, 11])).to.include({ ok: false, text: '6.33ms from 9s on' });
  });

  it('over windows longer than the run judge the whole run', () => {
    const store = new MetricStore([threshold('command_latency', 'max<5ms over 1m')]);
    store.merge({}, 2, [change('command_latency', [9000])]);
    expect(store.verdicts(4)[0]).to.include({ ok: false, text: '9.00ms from 0s on' });
  });

  it('count in the report up to a limit, and in the thresholds always', () => {
    const store = new MetricStore([threshold('own_last', 'count==2')]);
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < SUMMARIES_LIMIT; i++) store.merge({}, round, [change(`own_${i}`, [1])]);
      store.merge({}, round, [change('own_last', [1])]);
    }
    const summaries = store.summaries(2);
    expect(summaries).to.have.length(SUMMARIES_LIMIT);
    expect(summaries.every(({ values }) => values.count === 2)).to.equal(true);
    expect(store.verdicts(2)[0]?.ok).to.equal(true);
  });

  it('abort a run after their delay', () => {
    const options = { abortOnFail: true, delayAbortEvalUs: 5e6 };
    const store = new MetricStore([threshold('command_latency', 'max<5ms', options)]);
    store.merge({}, 0, [change('command_latency', [9000])]);
    expect(store.tick(4e6)).to.equal(undefined);
    expect(store.tick(6e6)?.selector.text).to.equal('command_latency');
  });
});

describe('metrics of a guest', () => {
  it('send what they have gained, once', () => {
    const metrics = new Metrics();
    const web = metrics.tagged({ stage: 'web' });
    web.counter('iterations').add(2);
    web.counter('iterations').add();
    metrics.trend('own').add(1500);
    const [message] = toMessages(7, metrics.take());
    expect(message?.second).to.equal(7);
    const changes = fromMessage(message as NonNullable<typeof message>);
    expect(changes.map(({ name, type, unit, tags, sum }) => [name, type, unit, tags, sum])).to.deep.equal([
      ['iterations', 'counter', 'count', { stage: 'web' }, 3],
      ['own', 'trend', 'time', {}, 1500],
    ]);
    expect(changes[1]?.histogram?.counts).to.deep.equal([1]);
    expect(metrics.take()).to.deep.equal([]);
  });

  it('refuse invalid names, another type, and more series than the limit', () => {
    const metrics = new Metrics();
    expect(() => metrics.trend('9 lives')).to.throw(/metric '9 lives'; accepted: up to 64 letters/);
    expect(() => metrics.gauge('iterations')).to.throw(/iterations is a counter, not a gauge/);
    metrics.trend('own');
    expect(() => metrics.tagged({ a: 'b' }).counter('own')).to.throw(/own is a trend, not a counter/);
    expect(() => {
      for (let i = 0; i <= SERIES_LIMIT; i++) metrics.tagged({ i: String(i) }).counter('many');
    }).to.throw(/is one series too many; accepted: 8192 series/);
  });
});
