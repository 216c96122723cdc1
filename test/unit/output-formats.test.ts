/**
 * The formats of outputs: each is read back by a parser that is not mdevsim's.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { Verdict } from '../../src/metrics/threshold-judge.ts';
import { recordCsv } from '../../src/report/outputs/csv.ts';
import { recordJson } from '../../src/report/outputs/json.ts';
import { recordJunit } from '../../src/report/outputs/junit.ts';
import { recordPerfetto } from '../../src/report/outputs/perfetto.ts';
import { recordPrometheus } from '../../src/report/outputs/prometheus.ts';
import type { RunRecord } from '../../src/report/record.ts';
import { recordFixture } from '../fixtures/record.ts';
import { parseCsv } from '../support/csv-file.ts';
import { parseJunit, xmllint } from '../support/junit-file.ts';
import { parsePrometheus } from '../support/prometheus-file.ts';
import { parseTrace } from '../support/trace-events.ts';

/** A name with everything that a format may have to escape. */
const HOSTILE = 'a "b" <c> & \'d\'\n,e\\\u0000\u001b]0;\ud800 ✓';

const threshold = (overrides: Partial<Verdict>): Verdict => ({
  metric: 'iterations',
  condition: 'count==1',
  ok: true,
  observed: 1,
  unit: 'count',
  text: '1',
  implied: false,
  ...overrides,
});

describe('json', () => {
  it('is the record, with one line for a list of numbers', () => {
    const record = recordFixture({ scenario: HOSTILE });
    const text = recordJson(record);
    const { iterations: _, ...rest } = JSON.parse(JSON.stringify(record));
    expect(JSON.parse(text)).to.deep.equal(rest);
    expect(text).to.match(/"count": \[1,1,1,1\]/);
    expect(recordJson(record)).to.match(/^\{\n {2}"version": 1,\n/);
  });
});

describe('csv', () => {
  it('has a row for each metric in total, by stage and by group, and one for each bucket', () => {
    const rows = parseCsv(recordCsv(recordFixture()));
    expect(rows.every((row) => row.type !== '' && row.scope !== '')).to.equal(true);
    const of = (metric: string, stage: string, scope: string) =>
      rows.filter(
        (row) => row.metric === metric && row.stage === stage && row.group === '' && row.scope === scope,
      );
    const [total] = of('command_latency', 'web', 'total');
    expect([total?.count, total?.min, total?.avg, total?.max, total?.to_s]).to.deep.equal([
      '4',
      '100',
      '250',
      '400',
      '4',
    ]);
    const buckets = of('command_latency', '', 'bucket');
    expect(buckets.map(({ from_s, to_s, count, max }) => [from_s, to_s, count, max])).to.deep.equal(
      [0, 1, 2, 3].map((second) => [`${second}`, `${second + 1}`, '2', `${100 * (second + 1)}`]),
    );
    expect(of('iterations', 'batch', 'bucket').map(({ rate }) => rate)).to.deep.equal(['1', '1', '1', '1']);
    expect(of('vms_running', '', 'bucket').map(({ value }) => value)).to.deep.equal(['0', '1', '2', '3']);
    expect(of('checks', '', 'total')[0]?.rate).to.equal('0.75');
  });

  it('quotes what RFC 4180 demands', () => {
    const record = recordFixture();
    const [metric] = record.load.metrics;
    const load = { ...record.load, metrics: [{ ...metric!, tags: { group: HOSTILE } }] };
    expect(parseCsv(recordCsv({ ...record, load }))[0]?.group).to.equal(HOSTILE);
  });
});

describe('junit', () => {
  const check = (record: RunRecord) => {
    const xml = recordJunit(record);
    const complaints = xmllint(xml);
    if (complaints === undefined) console.log('        (xmllint is not installed: the XSD was not tried)');
    expect(complaints ?? '').to.equal('');
    return parseJunit(xml);
  };

  it('has a test case for each threshold, and for each way in which a run is wrong', () => {
    const suite = check(recordFixture());
    expect([suite.name, suite.tests, suite.failures, suite.errors]).to.deep.equal(['fixture', 6, 1, 0]);
    expect(suite.timestamp).to.equal('2026-01-02T03:04:05');
    const failed = suite.testcase.filter(({ failure }) => failure);
    expect(failed.map(({ classname, name }) => [classname, name])).to.deep.equal([
      ['fixture.thresholds', 'command_latency p(50)<1us'],
    ]);
    expect(failed[0]?.failure?.[0]?.message).to.match(/^command_latency p\(50\)<1us: \d+(\.\d+)?us$/);
    const properties = suite.properties[0]?.property ?? [];
    expect(properties.find(({ name }) => name === 'command')?.value).to.equal(
      'mdevsim run fixture.yaml --seed 7',
    );
  });

  it('fails exactly if the exit code is not 0', () => {
    const thresholds = [threshold({})];
    const load = { ...recordFixture().load, thresholds };
    const passed = recordFixture({ load, verdict: 'passed', exitCode: 0 });
    const failures = (record: RunRecord) => {
      const suite = check(record);
      return [suite.failures, suite.errors];
    };
    expect(failures(passed)).to.deep.equal([0, 0]);
    expect(failures({ ...passed, problems: ['VM 0 lost: x'], verdict: 'failed' })).to.deep.equal([1, 0]);
    expect(failures({ ...passed, verdict: 'interrupted' })).to.deep.equal([0, 1]);
    const missed = { ...load, thresholds: [threshold({ ok: false, implied: true })] };
    expect(failures({ ...passed, load: missed })).to.deep.equal([1, 0]);
    const result = { vm: 3, scriptError: 'Error: x' } as RunRecord['results'][number];
    const script = { ...passed, results: [result], problems: ['VM 3 script: Error: x'] };
    expect(failures(script)).to.deep.equal([0, 1]);
    const event = { seconds: 2, endSeconds: null, action: 'migrate web/1', error: 'x' };
    const failed = {
      ...passed,
      load: { ...load, events: [event] },
      problems: ['event at 2 s, migrate web/1: x'],
    };
    expect(failures(failed)).to.deep.equal([0, 1]);
  });

  it('holds any text, and bounds the problems', () => {
    const problems = Array.from({ length: 1000 }, (_, i) => `${HOSTILE} ${i}`);
    const suite = check(
      recordFixture({ scenario: HOSTILE, problems, load: { ...recordFixture().load, thresholds: [] } }),
    );
    const visible = HOSTILE.replace('\u0000', '\\u0000')
      .replace('\u001b', '\\u001b')
      .replace('\ud800', '\ufffd');
    expect(suite.name).to.equal(visible);
    expect(suite.testcase[0]?.failure?.[0]?.message).to.equal(`${visible} 0`);
    const text = suite.testcase[0]?.failure?.[0]?.['#text'] ?? '';
    expect(text.endsWith('\nand 900 more problems')).to.equal(true);
  });
});

describe('prometheus', () => {
  const labels = { scenario: 'fixture', seed: '7' };

  it('has counters and histograms by stage, whose sum is the total, and gauges', () => {
    const families = parsePrometheus(recordPrometheus(recordFixture()));
    const iterations = families.get('mdevsim_iterations_total');
    expect([iterations?.type, iterations?.help]).to.deep.equal(['counter', 'completed iterations']);
    expect(iterations?.samples.map(({ labels: { stage }, value }) => [stage, value])).to.deep.equal([
      ['web', 4],
      ['batch', 4],
    ]);
    expect(families.get('mdevsim_bytes_bytes_total')?.samples).to.deep.equal([
      { name: 'mdevsim_bytes_bytes_total', labels: { ...labels, stage: '' }, value: 16384 },
    ]);
    expect(families.get('mdevsim_vms_running')?.samples[0]?.value).to.equal(3);
    expect(families.get('mdevsim_checks_ratio')?.samples[0]?.value).to.equal(0.75);
    const latency = families.get('mdevsim_command_latency_seconds')?.samples ?? [];
    const web = latency.filter((sample) => sample.labels.stage === 'web');
    expect(web.map(({ name, labels: { le }, value }) => [name.slice(32), le, value])).to.deep.equal([
      ['bucket', '0.000128', 1],
      ['bucket', '0.000256', 2],
      ['bucket', '0.000512', 4],
      ['bucket', '+Inf', 4],
      ['sum', undefined, 0.001],
      ['count', undefined, 4],
    ]);
  });

  it('has the samples of no stage with an empty one', () => {
    const record = recordFixture();
    const metrics = record.load.metrics.filter(({ tags }) => tags.stage !== 'web');
    const families = parsePrometheus(recordPrometheus({ ...record, load: { ...record.load, metrics } }));
    for (const name of ['mdevsim_iterations_total', 'mdevsim_command_latency_seconds'])
      expect(
        families
          .get(name)
          ?.samples.filter((sample) => sample.name === name || sample.name === `${name}_count`)
          .map(({ labels: { stage }, value }) => [stage, value]),
      ).to.deep.equal([
        ['batch', 4],
        ['', 4],
      ]);
  });

  it('has the thresholds and the exit code, and escapes labels', () => {
    const thresholds = [
      threshold({ metric: HOSTILE }),
      threshold({ metric: HOSTILE, ok: false }),
      threshold({ condition: 'count>0' }),
    ];
    const load = { ...recordFixture().load, thresholds };
    const families = parsePrometheus(recordPrometheus(recordFixture({ load, exitCode: 99 })));
    expect(families.get('mdevsim_run_exit_code')?.samples[0]?.value).to.equal(99);
    expect(
      families.get('mdevsim_threshold_met')?.samples.map(({ labels: { metric }, value }) => [metric, value]),
    ).to.deep.equal([
      [HOSTILE.replace('\ud800', '\ufffd'), 0],
      ['iterations', 1],
    ]);
  });
});

describe('perfetto', () => {
  const span = (overrides: Partial<RunRecord['iterations'][number]>): RunRecord['iterations'][number] => ({
    vm: 0,
    vgpu: 0,
    stage: 'web',
    workload: 'copy',
    vu: 0,
    startUs: 0,
    tookUs: 10,
    ...overrides,
  });
  const change = { from: 'system', to: 'iommu', removedUs: 1, bytesBefore: 4096, bytesAfter: 0 };
  const record = recordFixture({
    events: [
      { seconds: -0.1, kind: 'boot', vm: 0, text: '' },
      { seconds: 2, kind: 'abort', vm: null, text: HOSTILE },
    ],
    timelines: [
      {
        name: 'vm0/gpu0',
        vm: 0,
        vgpu: 0,
        // Two readings of the clock may make neighbours overlap.
        addressSpace: {
          segments: [],
          switches: [
            { ...change, startUs: -200_000, tookUs: 300 },
            { ...change, startUs: -199_900, tookUs: 50 },
          ],
        },
        activity: null,
      },
    ],
    iterations: [
      span({ startUs: 1000 }),
      span({ startUs: 1005, vu: 1 }),
      span({ startUs: 1010 }),
      span({ startUs: 1015, vu: 1, stage: 'batch', workload: 'fill' }),
    ],
  });

  it('has lanes of the run, of each worker, and of iterations that overlap', () => {
    const { events, names, otherData } = parseTrace(recordPerfetto(record));
    const lane = ({ pid, tid }: { readonly pid: number; readonly tid: number }) => names.get(`${pid}/${tid}`);
    const of = (category: string) =>
      events
        .filter(({ cat }) => cat === category)
        .map((event) => [lane(event), event.name, event.ts, event.dur]);
    expect(of('stage')).to.deep.equal([
      ['stage web', 'web', 500_000, 4e6],
      ['stage batch', 'batch', 1_500_000, 3e6],
    ]);
    expect(of('event')).to.deep.equal([
      ['events', 'abort', 2_500_000, undefined],
      ['vm0 guest', 'boot', 400_000, undefined],
    ]);
    expect(of('switch')).to.deep.equal([
      ['vm0/gpu0', 'system → iommu', 300_000, 300],
      ['vm0/gpu0', 'system → iommu', 300_300, 50],
    ]);
    expect(of('iteration').map(([at, , ts]) => [at, ts])).to.deep.equal([
      ['vm0/gpu0 iterations', 501_000],
      ['vm0/gpu0 iterations', 501_010],
      ['vm0/gpu0 iterations', 501_005],
      ['vm0/gpu0 iterations', 501_015],
    ]);
    expect(new Set(events.filter(({ cat }) => cat === 'iteration').map(({ tid }) => tid))).to.have.length(2);
    const lanes = [...names.keys()].filter((key) => key.includes('/')).map((key) => key.split('/')[1]);
    expect(new Set(lanes), 'no number twice').to.have.length(lanes.length);
    expect([names.get('1'), names.get('2'), otherData.eventsCut]).to.deep.equal(['run fixture', 'VM 0', 0]);
  });

  it('has counters in total and by stage, at the start of their buckets', () => {
    const { events } = parseTrace(recordPerfetto(record));
    const of = (counter: string) =>
      events.filter(({ ph, name }) => ph === 'C' && name === counter).map(({ ts, args }) => [ts, args.value]);
    expect(of('iterations/s web')).to.deep.equal([0, 1, 2, 3].map((second) => [500_000 + second * 1e6, 1]));
    expect(of('iterations/s')[0]).to.deep.equal([500_000, 2]);
    expect(of('p99 of command_latency batch (ms)').map(([ts]) => ts)).to.have.length(4);
  });

  it('has a bounded count of events, and says how many it lacks', () => {
    const many = Array.from({ length: 120_000 }, (_, i) => span({ startUs: i * 10 }));
    const { events, otherData } = parseTrace(recordPerfetto({ ...record, iterations: many }));
    expect(events).to.have.length(100_000);
    expect(otherData.eventsCut).to.be.within(20_000, 20_100);
  });
});
