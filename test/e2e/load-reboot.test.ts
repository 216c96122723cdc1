/**
 * VMs under declared load whose platform resets: the next guest continues the stages.
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

describe('a VM under declared load that reboots', function () {
  this.timeout(240_000);

  it('counts each iteration once: completed, interrupted by a reset, or dropped', async () => {
    const { summary, code } = await runScenario(
      'test/fixtures/scenarios/reboots-under-load.yaml',
      '--seed',
      '5',
    );
    expect(summary.problems).to.deep.equal([]);
    expect(code).to.equal(0);
    expect(summary.load.events.map(({ action, error }) => [action, error])).to.deep.equal([
      ['reboot rebooted/0', ''],
      ['reboot rebooted/0, RAM cleared', ''],
    ]);
    expect(count(summary, 'boot_time'), 'one VM boots three times, the other once').to.equal(4);
    expect(started(summary, 'counted')).to.equal(1600);
    expect(started(summary, 'shared')).to.equal(300);
    expect(started(summary, 'open')).to.equal(300);
    expect(
      count(summary, 'interrupted_iterations', 'counted'),
      'one of each VU and reset at most',
    ).to.be.at.most(8);
    expect(summary.results[0]?.mismatches).to.equal(0);
  });
});
