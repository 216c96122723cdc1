/**
 * VMs under declared load that their host migrates: the stages continue at the other host.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { RunSummary } from '../../src/report/summary.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { runScenario } from './run-command.ts';

const FILE = 'test/fixtures/scenarios/moves-under-load.yaml';

const count = ({ load }: RunSummary, name: string, stage?: string): number =>
  load.metrics.find((each) => each.name === name && each.tags.stage === stage)?.values.count ?? 0;

/** Observed values of the thresholds on iterations that do not depend on time. */
const counts = ({ load }: RunSummary): unknown[] =>
  load.thresholds
    .filter(({ metric }) => metric.startsWith('iterations{'))
    .map(({ metric, observed }) => [metric, observed]);

describe('a VM under declared load that migrates', function () {
  this.timeout(240_000);
  const folder = temporaryFolder();

  it('does the iterations that it does without the migrations, and nothing is lost', async () => {
    const { summary } = await runScenario(FILE, '--seed', '5');
    expect(summary.problems).to.deep.equal([]);
    expect(summary.load.events.map(({ action, error }) => [action, error])).to.deep.equal([
      ['migrate moved/0 to 1', ''],
      ['migrate moved/0 to 0', ''],
    ]);
    expect(count(summary, 'migration_downtime')).to.equal(2);
    expect(count(summary, 'iterations', 'open') + count(summary, 'dropped_iterations', 'open')).to.equal(300);
    expect(count(summary, 'boot_time'), 'each VM boots once').to.equal(2);

    const still = folder('still.yaml');
    writeFileSync(still, readFileSync(FILE, 'utf8').replace(/^events:\n(?: {2}- .*\n)+/m, ''));
    const { summary: expected } = await runScenario(still, '--seed', '5');
    expect(expected.load.events).to.deep.equal([]);
    expect(counts(summary)).to.deep.equal(counts(expected));
    expect(counts(summary)).to.have.length(7);
  });

  it('of every kind of vIOMMU, with every kind of workload', async () => {
    const { code, summary } = await runScenario('test/fixtures/scenarios/moves-everything.yaml');
    expect(summary.problems).to.deep.equal([]);
    expect(code).to.equal(0);
    expect(summary.load.events.every(({ endSeconds }) => endSeconds !== null)).to.equal(true);
  });

  it("with the scenario's own iterations and metrics", async () => {
    const { code, summary } = await runScenario('test/fixtures/scenarios/moving-iterations.ts');
    expect(summary.problems).to.deep.equal([]);
    expect(summary.load.thresholds.filter(({ ok }) => !ok)).to.deep.equal([]);
    expect(code).to.equal(0);
    expect(summary.results.map(({ operations }) => operations)).to.deep.equal([1600]);
  });

  it('stays if it cannot move, and its load continues', async () => {
    const file = folder('stays.yaml');
    writeFileSync(
      file,
      `name: stays
vms: 1
ramMiB: 16
load:
  s: { executor: per-vu-iterations, iterations: 300, workload: { copy: 99, dma-churn: 1 } }
  long: { executor: constant-vus, duration: 3s, workload: fill }
events:
  - { at: 1s, migrate: all/0, to: 0 }
  - { at: 20s, migrate: all/0 }
thresholds:
  iterations{stage:s}: ['count==300']
`,
    );
    const { code, summary } = await runScenario(file);
    expect(summary.problems).to.deep.equal([
      "event at 1 s, migrate all/0 to 0: to: 0 is the VM's own host; accepted: another host",
      'event at 20 s, migrate all/0: the run has ended before',
    ]);
    expect(code).to.equal(107);
    expect(summary.load.thresholds.map(({ ok }) => ok)).to.deep.equal([true]);
  });
});
