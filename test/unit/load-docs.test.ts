/**
 * The reference in docs/load.md names what the code has.
 */
import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { WORKLOADS } from '../../src/load/workload-names.ts';
import { METRICS } from '../../src/metrics/catalogue.ts';

/** Returns the rows of the first table below a heading, without the header. */
function rowsBelow(heading: string): string[] {
  const text = readFileSync('docs/load.md', 'utf8');
  const section = text.slice(text.indexOf(`\n## ${heading}\n`));
  const [table] = /\n\|.*\n\|[-|]+\n((?:\|.*\n)+)/.exec(section)?.slice(1) ?? [];
  return (table ?? '').trimEnd().split('\n');
}

describe('docs/load.md', () => {
  it('has a row for each workload', () => {
    const rows = Object.entries(WORKLOADS).map(([name, { meaning }]) => `| \`${name}\` | ${meaning} |`);
    expect(rowsBelow('Workloads')).to.deep.equal(rows);
  });

  it('has a row for each metric', () => {
    const rows = Object.entries(METRICS).map(
      ([name, { type, meaning }]) => `| \`${name}\` | ${type} | ${meaning} |`,
    );
    expect(rowsBelow('Metrics')).to.deep.equal(rows);
  });
});
