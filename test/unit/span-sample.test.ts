import { expect } from 'chai';
import { describe, it } from 'mocha';
import { SpanSample } from '../../src/metrics/span-sample.ts';

/** Offers the numbers below `count`; returns the kept ones. */
function offer(sample: SpanSample<number>, count: number): readonly number[] {
  for (let i = 0; i < count; i++) if (sample.wantsNext()) sample.keep(i);
  return sample.spans;
}

describe('a sample of spans', () => {
  it('has all of a few, and a bounded count of many, spread evenly', () => {
    expect(offer(new SpanSample(8), 8)).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(offer(new SpanSample(8), 9)).to.deep.equal([0, 2, 4, 6, 8]);
    for (const count of [10, 100, 1000, 12_345]) {
      const kept = offer(new SpanSample(8), count);
      expect(kept.length).to.be.within(4, 8);
      const gaps = new Set(kept.slice(1).map((value, i) => value - (kept[i] as number)));
      expect(gaps, `${kept}`).to.have.length(1);
      expect(count - (kept.at(-1) as number)).to.be.at.most([...gaps][0] as number);
    }
  });

  it('starts anew when it is taken', () => {
    const sample = new SpanSample<number>(8);
    offer(sample, 100);
    sample.take();
    expect(offer(sample, 3)).to.deep.equal([0, 1, 2]);
  });
});
