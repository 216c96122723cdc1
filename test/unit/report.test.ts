import { expect } from 'chai';
import { describe, it } from 'mocha';
import { LATENCIES_LIMIT, Latencies } from '../../src/report/histograms.ts';
import { NO_LOAD } from '../../src/report/load-report.ts';
import { ExitCode, PROBLEM_LIMIT, summarize, summaryText } from '../../src/report/summary.ts';
import { hostResult, RUN_FACTS, type VmResult, vmResult } from '../fixtures/run-results.ts';

const judge = (changes: Partial<VmResult>) => summarize(RUN_FACTS, new Map([[0, vmResult(changes)]]), [], []);

describe('run verdict', () => {
  it('passes a run without errors', () => {
    const summary = judge({});
    expect(summary.exitCode).to.equal(ExitCode.ok);
    expect(summary.problems).to.deep.equal([]);
    expect(summaryText(summary)).to.match(/^PASSED {2}x: 1 VM × 1 vGPU in 1 host process, 2\.0 s, seed 7\n/);
  });

  it('is 80 columns wide, also with large counts; only texts of others may be longer', () => {
    const big = 123_456_789_012;
    const result = vmResult({
      operations: big,
      maps: big,
      unmaps: big,
      switches: big,
      audits: big,
      bytesVerified: big,
    });
    const latencies = Array.from({ length: 3 }, (_, vm): [number, VmResult] => [vm, result]);
    const facts = {
      ...RUN_FACTS,
      scenario: 'a-scenario-with-quite-a-long-name',
      vms: 1024,
      vgpus: 31,
      seed: 2_147_483_647,
    };
    const host = hostResult({
      devices: 3000,
      devicesStartUs: 5e8,
      devicesRss: 3e12,
      baselineWorkers: 256,
      baselineStartUs: 3e7,
      baselineRss: 2e9,
    });
    const verdict = (metric: string, ok: boolean) => ({
      metric,
      condition: 'p(99)<200ms over 10s',
      ok,
      observed: 1,
      unit: 'time' as const,
      text: '12.3ms from 100s on',
      implied: false,
    });
    const load = {
      ...NO_LOAD,
      thresholds: [verdict('command_latency{stage:web,op:copy}', true), verdict('checks', false)],
      metrics: ['warm', 'stage-of-20-letters.'].map((stage) => ({
        name: 'iterations',
        type: 'counter' as const,
        unit: 'count' as const,
        tags: { stage },
        values: { count: 123_456_789 },
        series: { seconds: 1, count: [] },
      })),
    };
    const text = summaryText(summarize(facts, new Map(latencies), [], [host], load));
    expect(text).to.match(
      /^THRESHOLDS NOT MET {2}a-scenario-with-quite-a-long-name:\n {2}1024 VMs × 31 vGPUs/,
    );
    expect(text).to.match(/\n {2}✗ checks {29}p\(99\)<200ms over 10s 12\.3ms from 100s on\n/);
    const lines = text.split('\n');
    expect(lines.filter((line) => line.length > 80)).to.deep.equal([]);
    expect(lines.length).to.be.above(15);
  });

  const bad: Record<string, Partial<VmResult>> = {
    'a violation': { violations: [{ kind: 'leaked-pins', detail: 'vm0/gpu0 left 3 pins', repeats: 0 }] },
    'a wrong byte': { mismatches: 1, failures: ['VM 0: gpu0 fill differs'] },
    'an unannounced fault': { faultsUnexpected: 1, failures: ['DMA write by 00:01.0 faulted'] },
    'a failed check without text': { mismatches: 40 },
    'a lost device': { failedDevices: ['vm0/gpu0 worker ended'] },
  };
  for (const [what, changes] of Object.entries(bad))
    it(`fails for ${what}`, () => {
      const summary = judge(changes);
      expect(summary.exitCode).to.equal(ExitCode.failed);
      expect(summary.problems).to.have.length.above(0);
    });

  it('fails for a VM whose host process died, and names the process', () => {
    const summary = summarize(RUN_FACTS, new Map(), [{ vm: 3, reason: 'host process 1 died (SIGKILL)' }], []);
    expect(summary.exitCode).to.equal(ExitCode.failed);
    expect(summary.problems).to.deep.equal(['VM 3 lost: host process 1 died (SIGKILL)']);
  });

  it("distinguishes a script's own error from a failure", () => {
    expect(judge({ scriptError: 'Error: enough' }).exitCode).to.equal(ExitCode.scriptError);
    expect(judge({ scriptError: 'Error: enough', mismatches: 1 }).exitCode).to.equal(ExitCode.failed);
  });

  it('lists the first violations of a kind as text, and counts the rest', () => {
    const violations = Array.from({ length: 30 }, (_, i) => ({
      kind: 'use-after-unpin',
      detail: `page ${i}`,
      repeats: i === 29 ? 70 : 0,
    }));
    const { problems } = judge({ violations });
    expect(problems).to.have.length(3);
    expect(problems[2]).to.equal('violation use-after-unpin: page 2 (and 97 more of this kind)');
    const failures = Array.from({ length: 100 }, (_, i) => `VM 0: check ${i}`);
    const lines = summaryText(judge({ failures, mismatches: 100 })).split('\n');
    expect(lines.filter((line) => line.includes('✗'))).to.have.length(PROBLEM_LIMIT + 1);
  });
});

describe('report', () => {
  it('names an interrupted run, whatever it has found so far', () => {
    const failed = { mismatches: 1, failures: ['VM 0: page 1 differs'], scriptError: 'Error: x' };
    for (const summary of [
      judge({ ...failed, interrupted: true }),
      summarize({ ...RUN_FACTS, interrupted: true }, new Map([[0, vmResult(failed)]]), [], []),
    ]) {
      expect([summary.verdict, summary.exitCode]).to.deep.equal(['interrupted', ExitCode.interrupted]);
      expect(summary.problems).to.have.length(2);
      expect(summaryText(summary)).to.match(/^INTERRUPTED {2}x: /);
    }
  });

  it('counts failed checks apart from pages with wrong bytes', () => {
    const summary = judge({ checksFailed: 3, mismatches: 1, failures: ['VM 0: a', 'VM 0: b'] });
    expect([summary.mismatches, summary.checksFailed]).to.deep.equal([1, 3]);
    expect(summaryText(summary)).to.match(/ 1 mismatch {3}checks failed 3\n/);
    expect(summary.problems.at(-1)).to.equal('VM 0: 2 more wrong pages, failed checks and faults');
  });

  it('counts the notes that it leaves out', () => {
    const notes = Array.from({ length: 32 }, (_, i) => `note ${i}`);
    const text = summaryText(judge({ notes, notesCut: 76 }));
    expect(text).to.include(`and ${32 - PROBLEM_LIMIT + 76} more notes\n`);
    const one = summaryText(judge({ notes: notes.slice(0, PROBLEM_LIMIT), notesCut: 1 }));
    expect(one).to.include('and 1 more note\n');
  });

  it('keeps every text on its line and shows control characters', () => {
    const text = summaryText(judge({ notes: ['a\nPASSED  b\u001b[2J\u009b1A'], scriptError: 'x\r\ny' }));
    expect(text).to.include('· a\\nPASSED  b\\u001b[2J\\u009b1A\n');
    expect(text).to.include('script: x\\u000d\\ny\n');
  });

  it('lists VMs and vGPUs with type, GPU, share, operations and latencies', () => {
    const latencies = new Latencies();
    latencies.recordUs('interrupt', 250);
    const vgpu = (index: number): VmResult['vgpus'][number] => ({
      name: `vm0/gpu${index}`,
      model: 'vgpu',
      type: 'vgpu-4g',
      gpu: 1,
      sharePpm: 250_000,
      operations: 5 + index,
      busyUs: 100,
      waitedUs: 10,
      preemptions: 1,
      clockUs: 400,
      histograms: latencies.encode(),
      failure: '',
    });
    const summary = judge({ vgpus: [vgpu(0), vgpu(1)] });
    const [vm] = summary.results;
    const rows = vm?.vgpus.map(({ name, operations, share, used, gpu }) => [
      name,
      operations,
      share,
      used,
      gpu,
    ]);
    expect(rows).to.deep.equal([
      ['vm0/gpu0', 5, 0.25, 0.25, 0],
      ['vm0/gpu1', 6, 0.25, 0.25, 0],
    ]);
    expect(vm?.vgpus[0]?.latencies[0]?.count).to.equal(1);
    expect(summaryText(summary)).to.match(/vm0\/gpu1 +6 +vgpu-4g +0 +25\.0 % +25\.0 % +2[45]\d µs/);
  });

  it('leaves out bytes that are no histogram', () => {
    const summary = judge({ histograms: [{ name: 'map', data: Uint8Array.of(1, 2, 3) }] });
    expect(summary.exitCode).to.equal(ExitCode.ok);
  });

  it('warns of an incomplete trace', () => {
    const error = 'ENOSPC: no space left on device, write';
    const host = hostResult({ traceDropped: 3, traceError: error });
    const text = summaryText(summarize(RUN_FACTS, new Map([[0, vmResult()]]), [], [host]));
    expect(text).to.include(`incomplete, 3 frames dropped: ${error}\n`);
  });
});

describe('latency histograms', () => {
  it('take no value that is no number, and a limited count of names', () => {
    const latencies = new Latencies();
    for (const value of [Number.NaN, undefined, 'x']) latencies.recordUs('map', value as number);
    expect(latencies.summary()).to.deep.equal([]);
    for (let i = 0; i < 2 * LATENCIES_LIMIT; i++) latencies.recordUs(`name ${i}` as 'map', 1);
    expect(latencies.summary()).to.have.length(LATENCIES_LIMIT);
  });

  it('of a device are part of those of its VM', () => {
    const vm = new Latencies();
    const device = new Latencies(vm);
    device.recordUs('map', 3);
    vm.recordUs('map', 4);
    expect([vm, device].map((latencies) => latencies.summary()[0]?.count)).to.deep.equal([2, 1]);
  });

  it('merge without loss across VMs', () => {
    const [a, b] = [new Latencies(), new Latencies()];
    for (let us = 1; us <= 100; us++) (us % 2 === 0 ? a : b).recordUs('map', us);
    const merged = new Latencies();
    for (const part of [a, b]) for (const { name, data } of part.encode()) merged.merge(name, data);
    const [map] = merged.summary();
    expect(map?.count).to.equal(100);
    expect(map?.p50Us).to.be.closeTo(50, 1);
    expect(map?.p99Us).to.be.closeTo(99, 1);
    expect(map?.maxUs).to.be.closeTo(100, 1);
  });

  it('count values beyond their range as the nearest one', () => {
    const latencies = new Latencies();
    latencies.recordUs('switch', 0);
    latencies.recordUs('switch', 1e12);
    const [entry] = latencies.summary();
    expect(entry?.count).to.equal(2);
    expect(entry?.maxUs).to.be.closeTo(3600e6, 3600e4);
  });
});
