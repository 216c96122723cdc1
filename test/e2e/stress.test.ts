import { expect } from 'chai';
import { describe, it } from 'mocha';
import { stress } from '../stress/harness.ts';

const SEED = 20;
const READERS = 2;

describe('a short stress run', () => {
  it('finds no violation of the protocol in sections and pins', async () => {
    const report = await stress({ seconds: 1.5, seed: SEED, readers: READERS }, true);
    expect(report.violations).to.equal(0);
    expect(report.quarantines).to.deep.equal([]);
    for (const count of ['uses', 'lookups', 'pins', 'unmaps'] as const)
      expect(report[count], count).to.be.greaterThan(20);
    expect(report.pinnedUnmaps).to.be.greaterThan(0);
  });

  it('finds violations when the same threads skip the protocol', async () => {
    const report = await stress({ seconds: 1, seed: SEED, readers: READERS }, false);
    expect(report.violations).to.be.greaterThan(0);
  });
});
