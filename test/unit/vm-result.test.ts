/**
 * Results of VMs: sums over the hosts of a VM and over devices, and what of them reaches the verdict.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { sumReports } from '../../src/report/device-report.ts';
import { LATENCIES_LIMIT, Latencies, type LatencyName } from '../../src/report/histograms.ts';
import { ExitCode, summarize, summaryText } from '../../src/report/summary.ts';
import { oneLine } from '../../src/report/text.ts';
import { addResults } from '../../src/report/vm-result.ts';
import { type HostResult, hostResult, RUN_FACTS, type VmResult, vmResult } from '../fixtures/run-results.ts';

type VgpuResult = VmResult['vgpus'][number];
type DeviceReport = FrameBodies['deviceReport'];

const report = (changes: Partial<DeviceReport> = {}): DeviceReport => ({
  pins: 1,
  unpins: 1,
  faults: 0,
  faultsDropped: 0,
  stalls: 0,
  interrupts: 0,
  metrics: [],
  unimplemented: [],
  unimplementedOthers: 0,
  ...changes,
});

const vgpu = (changes: Partial<VgpuResult> = {}): VgpuResult => ({
  name: 'vm0/gpu0',
  model: 'vgpu',
  type: 'vgpu-1g',
  gpu: 1,
  sharePpm: 62_500,
  operations: 10,
  busyUs: 100,
  waitedUs: 10,
  preemptions: 1,
  clockUs: 1000,
  histograms: [],
  failure: '',
  ...changes,
});

/** Returns the result of a successful VM with one device. */
const result = (changes: Partial<VmResult> = {}): VmResult =>
  vmResult({ vgpus: [vgpu()], maps: 1, unmaps: 1, switches: 1, audits: 1, devices: report(), ...changes });

const judge = (vm: VmResult) => summarize(RUN_FACTS, new Map([[0, vm]]), [], []);

describe('result of a VM that has moved', () => {
  const bad: Record<string, [changes: Partial<VmResult>, exitCode: number]> = {
    'a violation': [{ violations: [{ kind: 'leaked-pins', detail: '3 pins', repeats: 0 }] }, ExitCode.failed],
    'a wrong byte': [{ mismatches: 1 }, ExitCode.failed],
    'a failed check': [{ checksFailed: 1 }, ExitCode.failed],
    'an unannounced fault': [{ faultsUnexpected: 1 }, ExitCode.failed],
    'a text of a failure': [{ failures: ['VM 0: gpu0 fill differs'] }, ExitCode.failed],
    'a lost device': [{ failedDevices: ['vm0/gpu0 worker ended'] }, ExitCode.failed],
    'an error of the script': [{ scriptError: 'Error: enough' }, ExitCode.scriptError],
    'an interruption': [{ interrupted: true }, ExitCode.interrupted],
  };
  for (const [what, [changes, exitCode]] of Object.entries(bad))
    it(`has ${what} of the host that it has left, and of the last`, () => {
      expect(judge(addResults(result(changes), result())).exitCode).to.equal(exitCode);
      expect(judge(addResults(result(), result(changes))).exitCode).to.equal(exitCode);
    });

  it('has the sums of all hosts, by VM and by vGPU', () => {
    const first = result({ notes: ['a'], notesCut: 1, vgpus: [vgpu({ gpu: 2, failure: 'lost' })] });
    const sum = addResults(first, result({ notes: ['b'], moved: true }));
    expect(sum).to.deep.include({ operations: 20, maps: 2, audits: 2, notesCut: 1, notes: ['a', 'b'] });
    expect(sum.moved).to.equal(true);
    expect(sum.devices).to.deep.include({ pins: 2, unpins: 2 });
    expect(sum.vgpus).to.deep.equal([
      vgpu({ operations: 20, busyUs: 200, waitedUs: 20, preemptions: 2, clockUs: 2000, failure: 'lost' }),
    ]);
    expect(judge(sum).results[0]?.vgpus[0]).to.include({ gpu: 0, used: 0.1, share: 0.0625 });
  });
});

describe('sum of device reports', () => {
  const access = (offset: number, write: boolean, count: number) => ({ bar: 0, offset, write, count });

  it('adds metrics and accesses of equal name and place', () => {
    const reports = [1, 2].map((count) =>
      report({
        metrics: [{ name: 'transfers', value: count }],
        unimplemented: [access(8, false, count), access(8, true, 10 * count)],
      }),
    );
    const sum = sumReports(reports);
    expect(sum.metrics).to.deep.equal([{ name: 'transfers', value: 3 }]);
    expect(sum.unimplemented).to.deep.equal([access(8, false, 3), access(8, true, 30)]);
  });

  it('counts accesses beyond its rows', () => {
    const unimplemented = Array.from({ length: 300 }, (_, i) => access(i * 4, false, 2));
    const sum = sumReports([report({ unimplemented, unimplementedOthers: 5 })]);
    expect(sum.unimplemented.length * 2 + sum.unimplementedOthers).to.equal(605);
    expect(sum.unimplemented.length).to.be.lessThan(300);
  });
});

describe('report of a run', () => {
  it('counts repeated violations', () => {
    const violations = [
      { kind: 'a', detail: 'x', repeats: 4 },
      { kind: 'b', detail: 'y', repeats: 0 },
    ];
    expect(judge(result({ violations })).violations).to.equal(6);
  });

  it('says that a trace is incomplete, at its limit or by an error', () => {
    const text = (changes: Partial<HostResult>) =>
      summaryText(summarize(RUN_FACTS, new Map([[0, result()]]), [], [hostResult(changes)]));
    expect(text({})).to.not.include('incomplete');
    expect(text({ traceDropped: 3 })).to.include('incomplete, 3 frames dropped: the file reached its limit');
    expect(text({ traceError: 'ENOSPC' })).to.include('incomplete, 0 frames dropped: ENOSPC');
  });

  it('shows control characters instead of sending them', () => {
    expect(oneLine('a\n\u001b[2J\u007f\u009b\u2028b')).to.equal('a\\n\\u001b[2J\\u007f\\u009b\\u2028b');
  });
});

describe('latencies', () => {
  it('of a device are also those of its VM', () => {
    const vm = new Latencies();
    const devices = [new Latencies(vm), new Latencies(vm)];
    for (const [i, device] of devices.entries()) device.recordUs('interrupt', 10 * (i + 1));
    expect(vm.summary()).to.have.length(1);
    expect(vm.summary()[0]).to.include({ name: 'interrupt', count: 2 });
    expect(devices[0]?.summary()[0]).to.include({ count: 1 });
  });

  it('have a limited count of names', () => {
    const latencies = new Latencies();
    for (let i = 0; i < LATENCIES_LIMIT + 5; i++) latencies.recordUs(`name ${i}` as LatencyName, 1);
    expect(latencies.summary()).to.have.length(LATENCIES_LIMIT);
  });
});
