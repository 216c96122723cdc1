/**
 * The reference and the pages of the workloads: they say what the code has.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { WORKLOADS } from '../../src/load/workload-names.ts';
import { METRICS } from '../../src/metrics/catalogue.ts';
import { EXIT_MEANINGS, ExitCode } from '../../src/report/summary.ts';
import { readDataFile } from '../../src/scenario/data-file.ts';
import { referenceText } from '../reference/reference.ts';
import { exampleOf, metricRows, workloadPage } from '../reference/workload-page.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

describe('docs/reference.md', () => {
  it('is what npm run docs writes', () => {
    expect(
      readFileSync('docs/reference.md', 'utf8') === referenceText(),
      'stale; run: npm run docs',
    ).to.equal(true);
  });

  it('has every metric, exit code, setting and option', () => {
    const text = referenceText();
    for (const name of Object.keys(METRICS)) expect(text).to.match(new RegExp(`^\\| \`${name}\` \\|`, 'm'));
    for (const [name, meaning] of Object.entries(EXIT_MEANINGS))
      expect(text).to.include(`| ${ExitCode[name as keyof typeof ExitCode]} | ${meaning} |`);
    for (const name of ['vms', 'policy', 'every', 'gracefulStop', 'preAllocatedVUs', 'target', 'abortOnFail'])
      expect(text).to.match(new RegExp(`^\\| \`${name}\` \\|`, 'm'));
    expect(text).to.include('| `--viommu <kind>` |').and.to.include('### constant-arrival-rate');
    expect(text).to.not.match(/undefined|\[object|NaN/);
  });
});

describe('pages of workloads', () => {
  const inFolder = temporaryFolder();

  it('are there for each workload, and for no other', () => {
    const pages = readdirSync('docs/workloads').filter((file) => file !== 'README.md');
    expect(pages.map((file) => file.replace(/\.md$/, '')).sort()).to.deep.equal(
      Object.keys(WORKLOADS).sort(),
    );
    for (const name of Object.keys(WORKLOADS))
      expect(readFileSync('docs/workloads/README.md', 'utf8')).to.include(`[\`${name}\`](${name}.md)`);
  });

  for (const name of Object.keys(WORKLOADS))
    it(`${name}: sections, known metrics, and an example that is accepted`, () => {
      const page = workloadPage(name);
      expect(page.split('\n')[0]).to.equal(`# ${name}`);
      expect([...page.matchAll(/^## (.*)$/gm)].map(([, title]) => title)).to.deep.equal([
        'Metrics',
        'Verified',
        'Use it',
      ]);
      for (const { metrics } of metricRows(page))
        for (const metric of metrics) expect(Object.keys(METRICS)).to.include(metric);
      const file = inFolder(`${name}.yaml`);
      writeFileSync(file, exampleOf(page));
      const { settings } = readDataFile(file);
      expect(Object.values(settings.load ?? {}).map(({ workload }) => workload)).to.include(name);
      expect(Object.keys(settings.thresholds)).to.have.length.above(0);
    });
});
