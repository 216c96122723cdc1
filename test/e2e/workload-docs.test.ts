/**
 * The pages of the workloads say which metrics an iteration moves, and with which tags: one run with a stage for each
 * workload shows it.
 */
import { writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { WORKLOADS } from '../../src/load/workload-names.ts';
import { metricRows, workloadPage } from '../reference/workload-page.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { runScenario } from './run-command.ts';

const ITERATIONS = 40;
/** Metrics that every stage has, and those of other stages' resets. */
const ALWAYS = ['iterations', 'iteration_duration'];
const IGNORED = ['interrupted_iterations', 'dropped_iterations'];
/** These stages disturb the others, and so run after them. */
const LATE = ['reset', 'hang'];

describe('pages of workloads', function () {
  this.timeout(180_000);
  const inFolder = temporaryFolder();

  it('name the metrics that an iteration moves, with their operations', async () => {
    const names = Object.keys(WORKLOADS);
    const thresholds = names.flatMap((stage) =>
      metricRows(workloadPage(stage)).flatMap(({ metrics, ops }) =>
        metrics.flatMap((metric) =>
          ops.map(
            (op) =>
              [`${metric}{stage:${stage},op:${op}}`, [metric === 'bytes' ? 'count>0B' : 'count>0']] as const,
          ),
        ),
      ),
    );
    const stageOf = (workload: string) => {
      const late = LATE.indexOf(workload);
      const iterations = late >= 0 ? 3 : ITERATIONS;
      const startTime = late >= 0 ? `${15 + 3 * late}s` : '0s';
      return { executor: 'per-vu-iterations', vus: 1, iterations, workload, startTime };
    };
    const scenario = {
      name: 'every-workload',
      vgpus: 2,
      ramMiB: 128,
      iommu: 'lazy',
      load: Object.fromEntries(names.map((name) => [name, stageOf(name)])),
      thresholds: Object.fromEntries(thresholds),
    };
    writeFileSync(inFolder('every.json'), JSON.stringify(scenario));
    const { summary } = await runScenario(inFolder('every.json'), '--seed', '5');
    expect(summary.problems).to.deep.equal([]);
    expect(summary.load.thresholds.filter(({ ok }) => !ok).map(({ metric }) => metric)).to.deep.equal([]);

    for (const stage of names) {
      const rows = metricRows(workloadPage(stage));
      const named = new Set([...ALWAYS, ...rows.flatMap(({ metrics }) => metrics)]);
      const sure = [...ALWAYS, ...rows.filter(({ always }) => always).flatMap(({ metrics }) => metrics)];
      const moved = summary.load.metrics
        .filter(({ tags, values }) => tags.stage === stage && (values.count ?? 0) > 0)
        .map(({ name }) => name)
        .filter((name) => !IGNORED.includes(name));
      expect(
        moved.filter((name) => !named.has(name)),
        `${stage}: not in its page`,
      ).to.deep.equal([]);
      expect(
        sure.filter((name) => !moved.includes(name)),
        `${stage}: not moved`,
      ).to.deep.equal([]);
    }
  });
});
