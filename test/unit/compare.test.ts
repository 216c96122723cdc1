/**
 * Comparison of two runs: what is noise and what is not, conditions, and files that are refused.
 */
import { writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { InvalidArgumentError } from 'commander';
import { describe, it } from 'mocha';
import { failOnOption } from '../../src/cli/compare.ts';
import { Metrics } from '../../src/metrics/metrics.ts';
import { MetricStore } from '../../src/metrics/store.ts';
import { Prng } from '../../src/platform/platform.ts';
import { compareRuns } from '../../src/report/compare/compare.ts';
import { judgeFailOn } from '../../src/report/compare/fail-on.ts';
import { readStoredRun, type StoredRun, StoredRunError } from '../../src/report/compare/stored-run.ts';
import { comparisonText } from '../../src/report/compare/text.ts';
import { recordJson } from '../../src/report/outputs/json.ts';
import { recordFixture } from '../fixtures/record.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const SAMPLES = 50;

describe('a comparison of two runs', () => {
  const inFolder = temporaryFolder();

  /** Writes and reads the record of a run with latencies around `at(second)`, and iterations. */
  function run(
    name: string,
    {
      seed = 1,
      seconds = 20,
      at = (_: number): number => 1000,
      iterations = (_: number): number => 100,
      own = '',
    } = {},
  ): StoredRun {
    const store = new MetricStore([]);
    const prng = new Prng(seed);
    for (let second = 0; second < seconds; second++) {
      const metrics = new Metrics({ stage: 'web' });
      for (let i = 0; i < SAMPLES; i++)
        metrics.trend('command_latency').add(at(second) * (0.9 + 0.2 * (prng.next32() / 2 ** 32)));
      metrics.counter('iterations').add(iterations(second));
      if (own !== '') metrics.counter(own).add();
      store.merge({}, second, metrics.take());
    }
    const load = { ...recordFixture().load, seconds, metrics: store.summaries(seconds) };
    const path = inFolder(`${name}.json`);
    writeFileSync(path, recordJson(recordFixture({ load })));
    return readStoredRun(path);
  }

  const compared = (a: StoredRun, b: StoredRun, metric: string, aggregation: string) =>
    compareRuns(a, b).values.find((each) => each.metric === metric && each.aggregation === aggregation);

  it('finds a change beyond the noise, and none within it', () => {
    const a = run('a');
    for (const aggregation of ['med', 'p(95)', 'p(99)']) {
      const same = compared(a, run('b', { seed: 2 }), 'command_latency', aggregation);
      expect(same?.isBeyond, `${aggregation} of equal systems`).to.equal(false);
      const slower = compared(a, run('c', { seed: 3, at: () => 1200 }), 'command_latency', aggregation);
      expect(slower?.isBeyond, `${aggregation} of a slower one`).to.equal(true);
      expect(slower?.ratio).to.be.closeTo(1.2, 0.05);
    }
    const fewer = compared(a, run('d', { iterations: () => 80 }), 'iterations{stage:web}', 'rate');
    expect([fewer?.a, fewer?.b, fewer?.isBeyond]).to.deep.equal([100, 80, true]);
  });

  it('finds hardly any change between equal systems', () => {
    const runs = Array.from({ length: 12 }, (_, seed) => run(`${seed}`, { seed: seed + 10 }));
    const pairs = runs.flatMap((a, i) => runs.slice(i + 1).map((b) => compareRuns(a, b).values));
    const beyond = pairs.flat().filter(({ isBeyond }) => isBeyond);
    expect([pairs.length, beyond.length <= 3], `${beyond.length} of ${pairs.flat().length}`).to.deep.equal([
      66,
      true,
    ]);
  });

  it('compares buckets of the same time, so that a ramp is no noise', () => {
    const ramp = (factor: number) => (second: number) => factor * 100 * (second + 1);
    const a = run('a', { at: ramp(1) });
    const slower = compared(a, run('b', { seed: 2, at: ramp(1.15) }), 'command_latency', 'med');
    expect([slower?.isBeyond, slower?.ratio]).to.satisfy(
      ([isBeyond, ratio]: [boolean, number]) => isBeyond && ratio > 1.05,
    );
    // Longer buckets cannot be paired: the ramp itself is then noise.
    const long = compared(
      a,
      run('c', { seed: 2, seconds: 200, at: (s) => 115 * (s / 10 + 1) }),
      'command_latency',
      'med',
    );
    expect(long?.isBeyond).to.equal(false);
  });

  it('does not judge runs that are too short, and takes no ratio to 0', () => {
    const short = { seconds: 4 };
    const value = compared(run('a', short), run('b', { ...short, at: () => 9000 }), 'command_latency', 'med');
    expect([value?.noise, value?.isBeyond]).to.deep.equal([null, null]);
    const none = compared(run('a', { iterations: () => 0 }), run('b'), 'iterations', 'rate');
    expect([none?.a, none?.b, none?.ratio]).to.deep.equal([0, 100, null]);
    const both = compared(
      run('a', { iterations: () => 0 }),
      run('b', { iterations: () => 0 }),
      'iterations',
      'rate',
    );
    expect(both?.ratio).to.equal(1);
  });

  it('names metrics that only one run has', () => {
    const comparison = compareRuns(run('a', { own: 'mine' }), run('b', { own: 'yours' }));
    expect(comparison.onlyInA).to.deep.equal(['mine', 'mine{stage:web}']);
    expect(comparison.onlyInB).to.deep.equal(['yours', 'yours{stage:web}']);
  });

  it('prints the largest changes beyond the noise first', () => {
    const runs = [run('a'), run('b', { seed: 2, at: () => 2000, own: 'mine' })] as const;
    const [condition] = failOnOption('command_latency p(99) > 1.1x', []);
    const results = [judgeFailOn(condition!, ...runs)];
    const text = comparisonText(runs, compareRuns(...runs), results);
    const lines = text.split('\n');
    expect(lines[0]).to.match(/^FAILED {2}8 values, 6 beyond the noise$/);
    expect(text).to.match(/✗ fail on command_latency p\(99\) > 1\.1x: [12]\.\d+x >±\d/);
    expect(text).to.match(/command_latency +med +\d+\.0us +2\.\d\dms +[12]\.\d+x >±\d/);
    expect(text).to.include('only in B: mine\n');
    expect(lines.findIndex((line) => line.includes('iterations'))).to.be.above(
      lines.findLastIndex((line) => line.includes('>±')),
    );
    expect(
      Math.max(...lines.filter((line) => !line.includes('.json')).map(({ length }) => length)),
    ).to.be.at.most(80);
  });

  it('judges conditions on any aggregation, also on percentiles that the record does not list', () => {
    const [a, b] = [run('a'), run('b', { seed: 2, at: () => 1200, own: 'mine' })];
    const failed = (text: string) => judgeFailOn(failOnOption(text, [])[0]!, a, b).failed;
    expect(failed('command_latency{stage:web} p(97.5) > 1.1x')).to.equal(true);
    expect(failed('command_latency p(97.5) > 1.3x')).to.equal(false);
    expect(failed('command_latency max >= 1.3x')).to.equal(false);
    expect(failed('command_latency avg < 1.3x')).to.equal(true);
    expect(failed('iterations count != 1x')).to.equal(false);
    expect(failed('iterations rate < 1x')).to.equal(false);
    expect(failed('mine count > 1x'), 'in one run only').to.equal(true);
    // Samples lie within 0.9 to 1.1 of 1000 and 1200 microseconds.
    const value = judgeFailOn(failOnOption('command_latency p(50) > 1x', [])[0]!, a, b).value;
    expect(value?.a).to.be.closeTo(1000, 20);
    expect(value?.b).to.be.closeTo(1200, 24);
  });

  it('refuses conditions that cannot be judged', () => {
    for (const text of [
      '',
      'command_latency',
      'command_latency p(99) > 1.1',
      'p(99) > 1.1x',
      'x p(99) => 1x',
    ])
      expect(() => failOnOption(text, []), text).to.throw(
        InvalidArgumentError,
        /^accepted: METRIC AGGREGATION/,
      );
    expect(() => failOnOption('command_latency{stag:web} avg > 1x', [])).to.throw(
      /no tag 'stag'.*nearest: stage/,
    );
    const [a, b] = [run('a'), run('b')];
    const refused: Record<string, RegExp> = {
      'comand_latency p(99) > 1x': /neither run has comand_latency; nearest: command_latency$/,
      'command_latency{stage:wbe} avg > 1x': /neither run has .*; nearest: command_latency\{stage:web\}$/,
      'command_latency value > 1x':
        /no aggregation 'value' of command_latency, a trend; accepted: avg, min, med/,
      'command_latency p(101) > 1x': /no aggregation 'p\(101\)'/,
      'iterations p(99) > 1x': /no aggregation 'p\(99\)' of iterations, a counter; accepted: count, rate$/,
    };
    for (const [text, why] of Object.entries(refused))
      expect(() => judgeFailOn(failOnOption(text, [])[0]!, a, b), text).to.throw(StoredRunError, why);
  });

  it('refuses files that are no records of this version, and says what is wrong where', () => {
    const json = recordJson(recordFixture());
    const refused: readonly (readonly [string, RegExp])[] = [
      ['', /x\.json: not JSON: Unexpected end/],
      [json.slice(0, json.length / 2), /x\.json: not JSON: .*position \d+/],
      ['{}', /x\.json: not the record of a run; accepted: files of --out json=PATH$/],
      ['null', /x\.json: not the record of a run/],
      ['[1]', /x\.json: not the record of a run/],
      [json.replace('"version": 1', '"version": 2'), /x\.json: record of version 2; accepted: 1$/],
      [json.replace('"type": "counter"', '"type": "sum"'), /x\.json: load\.metrics\.0\.type: /],
      [
        json.replace(/"count": \[1,1,1,1\]/, '"count": [1,"1"]'),
        /x\.json: load\.metrics\.\d\.series\.count\.1: /,
      ],
      [
        json.replace(/"counts": \[[\d,]*\]/, '"counts": []'),
        /x\.json: load\.metrics\.\d\.histogram: .*as many counts/,
      ],
    ];
    for (const [text, why] of refused) {
      writeFileSync(inFolder('x.json'), text);
      expect(() => readStoredRun(inFolder('x.json')), String(why)).to.throw(StoredRunError, why);
    }
    expect(() => readStoredRun(inFolder('missing.json'))).to.throw(/ENOENT.*missing/);
  });
});
