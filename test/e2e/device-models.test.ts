import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { RunSummary } from '../../src/report/summary.ts';
import { fixture, mdevsim, runScenario } from './run-command.ts';

describe('a misbehaving device model', () => {
  let summary: RunSummary;

  before(async () => {
    ({ summary } = await runScenario(fixture('misbehaving-models'), '--seed', '5'));
    expect(summary.vmsLost, summary.problems.join('\n')).to.equal(0);
  });

  const problems = (device: number) =>
    summary.problems.filter((problem) => problem.includes(`vm0/dev${device} `)).join('\n');

  it('that throws fails its device: the message names the line', () => {
    expect(problems(0)).to.match(
      /^device failed: vm0\/dev0 worker ended: TypeError: this model had a bad day \(at .*misbehaves\.ts:\d+:\d+\)/,
    );
    expect(summary.notes).to.include('vm0/dev0: about to throw');
    expect(problems(6), 'an error that cannot be described').to.match(
      /device failed: vm0\/dev6 worker ended: threw/,
    );
  });

  it('that loops forever is ended and named', () => {
    expect(problems(1)).to.match(
      /violation stuck-model: vm0\/dev1 did not return from its model within 1000 ms/,
    );
  });

  it('that allocates without limit, on or off the heap, is ended and named', () => {
    expect(problems(2)).to.match(/stuck-model|reaching memory limit/);
    expect(problems(3), 'in one call').to.match(
      /model-memory: vm0\/dev3 holds \d+ MiB of buffers|stuck-model/,
    );
    expect(problems(4), 'step by step').to.match(
      /DeviceMemoryError: holds \d+ MiB of buffers; accepted: up to/,
    );
  });

  it('that returns invalid values is told the accepted ones and continues', () => {
    expect(problems(5)).to.include('violation bad-dma: vm0/dev5 reads IOVA NaN with permission 1; accepted:');
    expect(problems(5)).to.include('violation bad-interrupt: vm0/dev5 raises interrupt -1; accepted: only 0');
    expect(problems(5)).to.include(
      'violation bad-answer: vm0/dev5 step() returns NaN; accepted: idle, more, stalled',
    );
    expect(problems(5)).to.include(
      'answers a 4-byte read of BAR0+0x4 with NaN; accepted: a bigint of that size',
    );
    expect(problems(5)).to.not.include('device failed');
  });

  it('does not harm its neighbour', () => {
    expect(problems(7)).to.equal('');
    expect(summary.mismatches).to.equal(0);
    expect(summary.operations).to.be.greaterThan(10);
    expect([summary.devicesFailed, summary.verdict, summary.vmsLost]).to.deep.equal([6, 'failed', 0]);
  });

  it('is told which registers it lacks and which guest spins', () => {
    expect(summary.devices.unimplemented).to.deep.equal([
      { bar: 0, offset: 0x40, write: false, count: 1 },
      { bar: 0, offset: 0x40, write: true, count: 1 },
      { bar: 2, offset: 0x10, write: true, count: 1 },
    ]);
    expect(summary.notes[0]).to.match(
      /^vm0\/dev7: the guest spins on BAR0\+0x8 \(Status\): read [24]000 times in \d\.\d s, always 0x1; /,
    );
  });
});

describe('a user-defined device model', () => {
  it('that cannot be loaded ends the command before the run starts', async () => {
    const file = 'test/fixtures/models/throws.ts';
    const { code, stderr, stdout } = await mdevsim('run', 'scenarios/edu-device.ts', '--model', file);
    expect([code, stdout]).to.deep.equal([104, '']);
    expect(stderr).to.match(
      /^mdevsim: model test\/fixtures\/models\/throws\.ts: Error: this model does not load \(at .*throws\.ts:1:7\)/,
    );
  });

  it('is driven by a script behind a vIOMMU', async () => {
    const { code, stdout, stderr } = await mdevsim(
      'run',
      'scenarios/edu-device.ts',
      '--vms',
      '1',
      '--vgpus',
      '1',
    );
    expect(code, stderr).to.equal(0);
    expect(stdout).to.match(/devices {8}.*transfers 80/);
  });
});
