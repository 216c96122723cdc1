import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { Latencies } from '../../src/report/histograms.ts';
import { ExitCode, PROBLEM_LIMIT, summarize, summaryText } from '../../src/report/summary.ts';

type VmResult = FrameBodies['vmResult'];

const FACTS = { scenario: 'x', vms: 1, vgpus: 1, processes: 1, seed: 7, inject: '', wallSeconds: 2 };

/** Returns the result of a successful VM, with the changes of a test. */
const result = (changes: Partial<VmResult> = {}): VmResult => ({
  operations: 10,
  bytesVerified: 4096,
  mismatches: 0,
  checksFailed: 0,
  notesCut: 0,
  interrupted: false,
  vgpus: [],
  failures: [],
  faultsExpected: 0,
  faultsUnexpected: 0,
  violations: [],
  histograms: [],
  failedDevices: [],
  scriptError: '',
  maps: 0,
  unmaps: 0,
  switches: 0,
  audits: 0,
  notes: [],
  moved: false,
  ...changes,
});

const judge = (changes: Partial<VmResult>) => summarize(FACTS, new Map([[0, result(changes)]]), [], []);

describe('run verdict', () => {
  it('passes a run without errors', () => {
    const summary = judge({});
    expect(summary.exitCode).to.equal(ExitCode.ok);
    expect(summary.problems).to.deep.equal([]);
    expect(summaryText(summary)).to.match(/^PASSED {2}x: 1 VM × 1 vGPU in 1 host process, 2\.0 s, seed 7\n/);
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
    const summary = summarize(FACTS, new Map(), [{ vm: 3, reason: 'host process 1 died (SIGKILL)' }], []);
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

describe('latency histograms', () => {
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
