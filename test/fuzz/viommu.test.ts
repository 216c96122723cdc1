/**
 * Short run of the vIOMMU fuzzer. `npm run fuzz -- viommu` is the long run.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Rig } from './rig.ts';
import { fuzz, KIND_NAMES, type Kind, runCase } from './viommu.ts';

const SEED = 20261122;
/** Count of cases by kind. */
const CASES: Readonly<Record<Kind, number>> = {
  'vtd-legacy': 150,
  'vtd-scalable': 150,
  amd: 250,
  virtio: 250,
  spapr: 250,
};

describe('vIOMMU fuzzer', () => {
  for (const kind of KIND_NAMES)
    it(`${kind}: ends, does not throw, keeps its limits and is reproducible`, async () => {
      const { passed, failed } = await fuzz([kind], SEED, 0, (number) => number < CASES[kind]);
      expect(failed).to.deep.equal([]);
      expect(passed).to.equal(CASES[kind]);
    });

  it('returns different digests for different seeds', async () => {
    const rig = new Rig();
    const digests = [await runCase(rig, 'virtio', 1, 0), await runCase(rig, 'virtio', 2, 0)];
    expect(digests[0]).not.to.equal(digests[1]);
  });
});
