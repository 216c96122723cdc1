/**
 * A bounded run of the fuzzers: `npm run fuzz -- viommu` is the long one.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Rig } from './rig.ts';
import { fuzz, KIND_NAMES, type Kind, runCase } from './viommu.ts';

const SEED = 20261122;
/** Cases of a kind; VT-d has two. */
const CASES: Readonly<Record<Kind, number>> = {
  'vtd-legacy': 150,
  'vtd-scalable': 150,
  virtio: 250,
  spapr: 250,
};

describe('fuzzed vIOMMUs', () => {
  for (const kind of KIND_NAMES)
    it(`${kind}: ends, throws nothing, keeps its limits and repeats itself`, async () => {
      const { passed, failed } = await fuzz([kind], SEED, 0, (number) => number < CASES[kind]);
      expect(failed).to.deep.equal([]);
      expect(passed).to.equal(CASES[kind]);
    });

  it('gives another digest for another seed', async () => {
    const rig = new Rig();
    const digests = [await runCase(rig, 'virtio', 1, 0), await runCase(rig, 'virtio', 2, 0)];
    expect(digests[0]).not.to.equal(digests[1]);
  });
});
