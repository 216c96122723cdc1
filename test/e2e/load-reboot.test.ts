/**
 * VMs under declared load whose platform resets, that crash or are shut down: the next guest continues the stages.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { RunSummary } from '../../src/report/summary.ts';
import { runScenario } from './run-command.ts';

const count = ({ load }: RunSummary, name: string, stage?: string): number =>
  load.metrics.find((each) => each.name === name && each.tags.stage === stage)?.values.count ?? 0;

/** Returns the iterations of a stage, however they have ended. */
const started = (summary: RunSummary, stage: string): number =>
  ['iterations', 'interrupted_iterations', 'dropped_iterations']
    .map((name) => count(summary, name, stage))
    .reduce((a, b) => a + b);

const events = ({ load }: RunSummary): [string, string][] =>
  load.events.map(({ action, error }) => [action, error]);

/** Expects that nothing is wrong. A busy machine may miss a rate. */
function expectSound({ problems, load }: RunSummary): void {
  expect(problems.filter((problem) => !problem.startsWith('threshold'))).to.deep.equal([]);
  expect(load.thresholds.find(({ metric }) => metric === 'checks')?.ok ?? true).to.equal(true);
}

describe('a VM under declared load that ends and boots again', function () {
  this.timeout(240_000);

  it('by a reset of its platform: each iteration is completed, interrupted or dropped', async () => {
    const { summary } = await runScenario('test/fixtures/scenarios/reboots-under-load.yaml', '--seed', '5');
    expectSound(summary);
    expect(events(summary)).to.deep.equal([
      ['reboot rebooted/0', ''],
      ['reboot rebooted/0, RAM cleared', ''],
    ]);
    expect(count(summary, 'boot_time'), 'one VM boots three times, the other once').to.equal(4);
    expect(started(summary, 'counted')).to.equal(1600);
    expect(started(summary, 'shared')).to.equal(300);
    expect(started(summary, 'open')).to.equal(300);
    expect(count(summary, 'interrupted_iterations', 'counted'), 'one of each VU and reset').to.be.at.most(8);
  });

  it('by a shutdown: each iteration is completed or dropped', async () => {
    const { summary } = await runScenario('test/fixtures/scenarios/crashes-and-boots.yaml', '--seed', '5');
    expectSound(summary);
    expect(events(summary)).to.deep.equal([
      ['shutdown stopped/0', ''],
      ['crash crashed/0', ''],
      ['boot stopped/0', ''],
      ['boot crashed/0', ''],
      ['crash crashed/0', ''],
    ]);
    expect([count(summary, 'iterations', 'counted'), count(summary, 'interrupted_iterations')]).to.deep.equal(
      [800, 0],
    );
    expect(started(summary, 'open')).to.equal(300);
    expect(count(summary, 'iterations', 'busy'), 'the crashed VM has worked').to.be.above(0);
  });

  it('by a pause, with devices that run or stop: each iteration is completed or dropped', async () => {
    const { summary } = await runScenario('test/fixtures/scenarios/pauses-under-load.yaml', '--seed', '5');
    expectSound(summary);
    expect(events(summary).every(([, error]) => error === '')).to.equal(true);
    expect(events(summary)).to.deep.include(['pause stopped/0, devices stopped', '']);
    expect([count(summary, 'iterations', 'counted'), started(summary, 'open')]).to.deep.equal([800, 100]);
    const { endSeconds } = summary.load.events.find(({ action }) => action.startsWith('pause stopped')) ?? {};
    const slowest = summary.load.metrics.find(
      ({ name, tags }) => name === 'iteration_duration' && tags.stage === 'open',
    );
    // The resume is due at 3 s: an iteration that was in flight or due at the pause has waited for it.
    expect(slowest?.values.max).to.be.above((3 - (endSeconds ?? 0)) * 5e5);
    expect(count(summary, 'boot_time'), 'the VM that crashed in its pause boots again').to.equal(4);
  });

  it('in the scenario reboot-under-load', async () => {
    const { summary } = await runScenario('reboot-under-load');
    expectSound(summary);
    expect(summary.load.events.filter(({ error }) => error !== '')).to.deep.equal([]);
  });

  it('in the scenario mixed-fleet', async () => {
    const { summary } = await runScenario('mixed-fleet');
    expectSound(summary);
    expect(summary.load.events.filter(({ error }) => error !== '')).to.deep.equal([]);
    expect(count(summary, 'boot_time'), '7 VMs, 3 reboots and 2 boots').to.equal(12);
  });

  it('in the scenario boot-storm', async () => {
    const { summary } = await runScenario('boot-storm');
    expectSound(summary);
    expect(count(summary, 'boot_time')).to.equal(8);
    expect(started(summary, 'first')).to.equal(140);
  });

  it('in the scenario rolling-migration', async () => {
    const { summary } = await runScenario('rolling-migration');
    expectSound(summary);
    expect(summary.load.events.filter(({ error }) => error !== '')).to.deep.equal([]);
    expect(count(summary, 'migration_downtime'), '3 VMs, there and back').to.equal(6);
    expect(started(summary, 'counted')).to.equal(400);
  });

  it('in the scenario crash-and-reuse', async () => {
    const { summary } = await runScenario('crash-and-reuse');
    expectSound(summary);
    expect(started(summary, 'counted')).to.equal(2000);
  });
});
