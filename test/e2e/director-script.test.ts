/**
 * Scenarios with a function `director(run)`: its actions, and what becomes of a run whose script fails.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { RunSummary } from '../../src/report/summary.ts';
import { runScenario } from './run-command.ts';

const FILE = 'test/fixtures/scenarios/directed.ts';

const events = ({ load }: RunSummary): [string, string][] =>
  load.events.map(({ action, error }) => [action, error]);

describe('a scenario with director(run)', function () {
  this.timeout(240_000);

  const run = async (mode: string) => runScenario(FILE, '--seed', '5', '--param', `mode=${mode}`);

  it('acts on VMs under load, one action after the other or several at a time', async () => {
    const { summary } = await run('all');
    expect(summary.problems).to.deep.equal([]);
    const [first, ...others] = events(summary);
    expect(first).to.deep.equal(['reboot web/0, RAM cleared', '']);
    expect(others).to.have.deep.members([
      ['pause web/0, devices stopped', ''],
      ['crash batch/0', ''],
      ['resume web/0', ''],
      ['boot batch/0', ''],
      ['shutdown batch/0', ''],
    ]);
  });

  it('fails with 107 on a VM that there is not, and names the nearest', async () => {
    const { summary, code } = await run('unknown');
    expect(code).to.equal(107);
    expect(summary.problems.join()).to.include("no VM 'web/7'; nearest: web/0; accepted: web/0, batch/0");
  });

  it('fails with 107 in a state that does not allow an action, also if the script catches the error', async () => {
    const { summary, code } = await run('state');
    expect(code).to.equal(107);
    expect(events(summary)).to.deep.equal([
      ['boot web/0', 'the VM is running; accepted: a VM that has crashed or is off'],
    ]);
  });

  it('fails with 107 if it leaves a VM paused, which then continues', async () => {
    const { summary, code } = await run('paused');
    expect(code).to.equal(107);
    expect(events(summary)).to.have.deep.members([
      ['pause web/0', ''],
      ['resume web/0', ''],
      ['director(run)', 'it has left web/0 paused'],
    ]);
  });

  it('ends at the end of the stages, though its script hangs and a VM waits for its boot', async () => {
    const { summary, code } = await run('hangs');
    expect(code).to.equal(107);
    expect(events(summary).at(-1)).to.deep.equal([
      'director(run)',
      'it had not ended at the end of the last stage',
    ]);
  });
});
