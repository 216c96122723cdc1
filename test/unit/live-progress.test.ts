/**
 * Progress of a run: its state from the metrics that have arrived, and its lines.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { nowUs } from '#host';
import { compileLoad, compileThresholds } from '../../src/load/compile.ts';
import { vmsOf } from '../../src/load/groups.ts';
import { Aggregate } from '../../src/metrics/aggregate.ts';
import { METRICS } from '../../src/metrics/catalogue.ts';
import { MetricStore } from '../../src/metrics/store.ts';
import type { LiveLoad } from '../../src/report/live.ts';
import { type HostProgress, liveLine, liveLines } from '../../src/report/live-text.ts';
import { LiveView } from '../../src/scenario/live-load.ts';
import { parseSettings } from '../../src/scenario/scenario.ts';

const HOSTS: HostProgress = {
  devices: 6,
  devicesReady: 6,
  vmsDone: 0,
  operations: 100,
  bytesVerified: 5 * 2 ** 20,
  phase: 'load',
};

const stage = (name: string, from: number, to: number, more: object = {}) => ({
  name,
  startSeconds: from,
  endSeconds: to,
  total: undefined,
  measured: true,
  iterations: 0,
  dropped: 0,
  ...more,
});

const LOAD: LiveLoad = {
  seconds: 5,
  vmsInAll: 4,
  vms: 3,
  vgpus: 6,
  stages: [
    stage('warmup', 0, 2, { measured: false }),
    stage('web', 0, 10, { iterations: 210, dropped: 3 }),
    stage('batch', 8, 10),
    stage('fixed', 0, 600, { total: 80, iterations: 20 }),
  ],
  commandsPerSecond: 1234.4,
  iterationsPerSecond: 56,
  p99Us: 12_300,
  thresholds: [
    { metric: 'checks', condition: 'rate==1', state: 'met', text: '1' },
    { metric: 'command_latency{stage:web}', condition: 'p(99)<2ms', state: 'missed', text: '12.3ms' },
    { metric: 'vgpu_rss', condition: 'max<20MiB', state: 'waiting', text: '' },
  ],
  events: [{ seconds: 4.25, kind: 'boot', vm: 2, text: '' }],
};

describe('progress on a terminal', () => {
  const lines = liveLines('web-and-batch', HOSTS, LOAD, 80);

  it('has VMs, vGPUs, rates and the latest p99 in its first lines', () => {
    expect(lines.slice(0, 2)).to.deep.equal([
      'web-and-batch  5 s, 3 of 4 VMs, 6 vGPUs',
      '  56 iterations/s, 1234 commands/s, p99 12.3ms',
    ]);
  });

  it('has a bar for each stage: by time, or by its iterations', () => {
    const bars = lines.slice(2, 6).map((line) => /^ {2}(\w+) +(█*)(░*) {2}(.*)$/.exec(line)?.slice(1));
    expect(bars.map((bar) => [bar?.[0], bar?.[1]?.length, bar?.[2]?.length])).to.deep.equal([
      ['warmup', 20, 0],
      ['web', 10, 10],
      ['batch', 0, 20],
      ['fixed', 5, 15],
    ]);
    expect(bars.map((bar) => bar?.[3]?.replace(/ +/g, ' ').trim())).to.deep.equal([
      'done not measured',
      '5 of 10 s 210 iterations, 3 dropped',
      'starts in 3 s 0 iterations',
      '20 of 80 iterations',
    ]);
  });

  it('has the thresholds, those that are not met first, and the last events', () => {
    expect(lines.slice(6).map((line) => line.replace(/ +/g, ' ').trim())).to.deep.equal([
      '✗ command_latency{stage:web} p(99)<2ms 12.3ms',
      '✓ checks rate==1 1',
      '· vgpu_rss max<20MiB',
      '4.3 s boot vm2',
    ]);
  });

  it('is as wide as the terminal at most, and bounded in height', () => {
    const many: LiveLoad = {
      ...LOAD,
      stages: Array.from({ length: 64 }, (_, i) => stage(`stage${i}`, i, i + 1)),
      thresholds: Array.from({ length: 50 }, (_, i) => ({ ...LOAD.thresholds[0]!, metric: `m${i}` })),
      events: Array.from({ length: 8 }, (_, i) => ({
        seconds: i,
        kind: 'end',
        vm: i,
        text: 'x'.repeat(200),
      })),
    };
    for (const columns of [1, 20, 40, 80, 200]) {
      const all = liveLines('name', HOSTS, many, columns);
      for (const line of all) expect([...line].length).to.be.at.most(columns);
      expect(all.length).to.be.at.most(2 + 9 + 9 + 3);
    }
    const text = liveLines('name', HOSTS, many, 80).join('\n');
    expect(text)
      .to.include('stage5 ')
      .and.to.include('and 56 more stages')
      .and.to.include('and 42 more thresholds');
  });

  it('shows starts, boots and hand-written loads', () => {
    const none = { ...LOAD, stages: [], thresholds: [], events: [] };
    const starting = { ...HOSTS, operations: 0, devicesReady: 2 };
    expect(liveLines('a', starting, none, 80)).to.include('a  starting: 2 of 6 vGPUs ready');
    const booting = liveLines('a', HOSTS, { ...LOAD, seconds: undefined }, 80);
    expect(booting[0]).to.equal('a  booting: 3 of 4 VMs, 6 vGPUs');
    expect(booting[1]).to.match(/^ {2}warmup +░{20} +not measured$/);
    expect(
      liveLines('a', { ...HOSTS, phase: 'churn' }, { ...none, iterationsPerSecond: 0 }, 80),
    ).to.deep.equal([
      'a  5 s, 3 of 4 VMs, 6 vGPUs',
      '  100 operations, 5 MiB verified, 1234 commands/s, p99 12.3ms',
      '  phase          churn',
    ]);
  });
});

describe('progress without a terminal', () => {
  it('is one line', () => {
    expect(liveLine(HOSTS, LOAD)).to.equal(
      '5 s: web, fixed, 3 of 4 VMs, 56 iterations/s, 1234 commands/s, p99 12.3ms, 1 of 3 thresholds not met',
    );
    expect(liveLine(HOSTS, { ...LOAD, seconds: undefined })).to.equal('booting: 3 of 4 VMs');
    expect(liveLine(HOSTS, { ...LOAD, stages: [] })).to.equal(
      'load: 0 of 4 VMs done, 100 operations, 5 MiB verified',
    );
    expect(liveLine({ ...HOSTS, operations: 0, devicesReady: 1 }, LOAD)).to.equal(
      'starting: 1 of 6 vGPUs ready',
    );
  });
});

describe('state of a load while it runs', () => {
  const settings = parseSettings({
    name: 'x',
    vgpus: 3,
    vms: 2,
    load: {
      each: { executor: 'per-vu-iterations', vus: 2, iterations: 5, workload: 'copy' },
      all: { executor: 'shared-iterations', iterations: 7, workload: 'copy' },
      open: { executor: 'constant-arrival-rate', rate: 5, startTime: '2s', duration: '4s', workload: 'copy' },
    },
    thresholds: {
      'command_latency{stage:open}': ['max<1ms', 'max<9s over 2s'],
      iterations: ['count>1000'],
      'checks{stage:each}': ['rate==1'],
    },
  });
  const stages = compileLoad(settings.load ?? {});
  const store = new MetricStore(compileThresholds(settings.thresholds, stages));
  const view = new LiveView(store, stages, vmsOf(settings), [3, 3]);
  const facts = { startUs: nowUs() - 5.5e6, vmsInAll: 2, running: [1], events: [] };

  function add(name: string, stageName: string, second: number, values: readonly number[]): void {
    const { type, unit } = METRICS[name]!;
    const samples = new Aggregate(type);
    for (const value of values) samples.add(value);
    store.merge({ vm: '0' }, second, [{ name, type, unit, tags: { stage: stageName }, ...samples.data() }]);
  }

  it('has totals, bounds and ends of the stages', () => {
    add('iterations', 'each', 1, [4]);
    add('iterations', 'open', 3, [2]);
    add('dropped_iterations', 'open', 3, [1]);
    const startUs = nowUs() - 5.5e6;
    const { stages: live, seconds, vms, vgpus } = view.state({ ...facts, startUs });
    expect(live).to.deep.equal([
      stage('each', 0, 600, { total: 60, iterations: 4 }),
      stage('all', 0, 600, { total: 7 }),
      stage('open', 2, 6, { iterations: 2, dropped: 1 }),
    ]);
    expect(seconds).to.be.within(5.5, (nowUs() - startUs) / 1e6);
    expect([vms, vgpus]).to.deep.equal([1, 3]);
    expect(view.state({ ...facts, startUs: undefined }).seconds).to.equal(undefined);
  });

  it('has the latency of the last seconds alone, and thresholds so far', () => {
    const states = () => view.state(facts).thresholds.map(({ state }) => state);
    expect(states()).to.deep.equal(['waiting', 'waiting', 'missed', 'waiting', 'missed']);
    add('command_latency', 'open', 0, [900_000]);
    add('command_latency', 'open', 4, [500, 600]);
    add('checks', 'each', 4, [1, 1]);
    const { p99Us, thresholds } = view.state({ ...facts, startUs: nowUs() - 5.5e6 });
    expect(p99Us).to.be.closeTo(600, 10);
    expect(thresholds.map(({ state, text }) => [state, text])).to.deep.equal([
      ['missed', '900.0ms'],
      ['waiting', ''], // no window has ended
      ['missed', '6'],
      ['met', '1'],
      ['missed', '1'],
    ]);
    expect(view.state({ ...facts, startUs: nowUs() - 60e6 }).p99Us).to.equal(undefined);
    store.tick(20e6);
    expect(states()[1]).to.equal('met');
  });
});
