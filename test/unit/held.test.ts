/**
 * Judgement of the soak of lives: which resources of a process count as grown.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { growthOf, heldNow, medianOf } from '../soak/held.ts';

const HELD = { rssMiB: 200, threads: 8, descriptors: 30, maps: 400 };

describe('resources of a process over many lives', () => {
  it('count as grown beyond the factor, each by its name', () => {
    expect(growthOf(HELD, HELD, 1.05)).to.deep.equal([]);
    expect(growthOf(HELD, { ...HELD, rssMiB: 210 }, 1.05)).to.deep.equal([]);
    expect(growthOf(HELD, { ...HELD, rssMiB: 211 }, 1.05)).to.deep.equal(['rssMiB']);
    expect(growthOf(HELD, { rssMiB: 100, threads: 10, descriptors: 32, maps: 421 }, 1.05)).to.deep.equal([
      'threads',
      'descriptors',
      'maps',
    ]);
  });

  it('do not count as grown within the noise of a count', () => {
    expect(growthOf(HELD, { ...HELD, threads: 9 }, 1.05)).to.deep.equal([]);
  });

  it('are those of this process, and one odd sample does not move the median', () => {
    const now = heldNow();
    expect(now.rssMiB).to.be.above(1);
    expect(now.threads).to.be.above(1);
    expect(medianOf([HELD, { ...HELD, rssMiB: 900 }, HELD])).to.deep.equal(HELD);
  });
});
