/**
 * Arithmetic of the executors: nothing is lost or doubled, whatever the division and the shape.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import {
  constantArrival,
  nextVuChange,
  type Ramp,
  rampArrival,
  rampLength,
  shareOf,
  vusAt,
} from '../../src/load/schedule.ts';

const ramps = (target: fc.Arbitrary<number>): fc.Arbitrary<Ramp[]> =>
  fc.array(
    fc.record({ durationUs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 60_000_000 })), target }),
    {
      minLength: 1,
      maxLength: 6,
    },
  );
const vuRamps = ramps(fc.integer({ min: 0, max: 40 }));
const rateRamps = ramps(fc.double({ min: 0, max: 50, noNaN: true }));
const start = fc.integer({ min: 0, max: 40 });

/** Returns the integral of the rate up to `us`. */
function expectedArrivals(us: number, startRate: number, parts: readonly Ramp[]): number {
  let [rate, begin, sum] = [startRate, 0, 0];
  for (const { durationUs, target } of parts) {
    const part = Math.min(durationUs, us - begin);
    if (part < 0) break;
    // A part without length is a jump of the rate.
    const atEnd = durationUs === 0 ? target : rate + ((target - rate) * part) / durationUs;
    sum += ((rate + atEnd) / 2) * (part / 1e6);
    begin += durationUs;
    rate = target;
  }
  return sum;
}

/** Returns the times of all arrivals that one of `count` VMs starts. */
function arrivalsOf(index: number, count: number, dueAt: (number: number) => number | undefined): number[] {
  const times: number[] = [];
  for (let number = index; ; number += count) {
    const due = dueAt(number);
    if (due === undefined) return times;
    times.push(due);
  }
}

describe('division of iterations over VMs', () => {
  it('gives each iteration to one VM', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 10_000 }), fc.integer({ min: 1, max: 64 }), (total, count) => {
        const shares = Array.from({ length: count }, (_, index) => shareOf(total, { index, count }));
        expect(shares.reduce((sum, share) => sum + share, 0)).to.equal(total);
        expect(Math.max(...shares) - Math.min(...shares)).to.be.at.most(1);
      }),
    );
  });

  it('keeps every arrival of the group, whatever the number of VMs', () => {
    fc.assert(
      fc.property(
        rateRamps,
        fc.double({ min: 0, max: 50, noNaN: true }),
        fc.integer({ min: 1, max: 9 }),
        (parts, rate, count) => {
          const dueAt = (number: number) => rampArrival(number, rate, parts);
          const whole = arrivalsOf(0, 1, dueAt);
          const divided = Array.from({ length: count }, (_, index) => arrivalsOf(index, count, dueAt));
          expect(divided.flat().sort((a, b) => a - b)).to.deep.equal(whole);
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe('arrival rates', () => {
  it('of a constant rate are rate × duration arrivals at equal distances', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 1, max: 100 }), (rate, seconds) => {
        const last = rate * seconds - 1;
        expect(constantArrival(last, rate)).to.be.below(seconds * 1e6);
        expect(constantArrival(last + 1, rate)).to.be.at.least(seconds * 1e6 * (1 - 1e-12));
      }),
    );
  });

  it('of a ramp come when the integral of the rate passes their number', () => {
    fc.assert(
      fc.property(rateRamps, fc.double({ min: 0, max: 50, noNaN: true }), (parts, rate) => {
        const times = arrivalsOf(0, 1, (number) => rampArrival(number, rate, parts));
        for (const [number, us] of times.entries()) {
          expect(expectedArrivals(us, rate, parts)).to.be.closeTo(number, 1e-5 * (number + 1) + 1e-5);
          expect(us).to.be.at.most(rampLength(parts));
          if (number > 0) expect(us).to.be.at.least((times[number - 1] as number) - 1e-3);
        }
        expect(times.length).to.be.closeTo(expectedArrivals(rampLength(parts), rate, parts), 1 + 1e-6);
      }),
      { numRuns: 60 },
    );
  });

  it('of zero start nothing', () => {
    const parts = [
      { durationUs: 5e6, target: 0 },
      { durationUs: 0, target: 10 },
      { durationUs: 1e6, target: 10 },
    ];
    const times = arrivalsOf(0, 1, (number) => rampArrival(number, 0, parts));
    expect(times.map(Math.round)).to.deep.equal(Array.from({ length: 10 }, (_, i) => 5e6 + i * 1e5));
  });
});

describe('active VUs of a ramp', () => {
  it('stay between the ends of each part and reach them', () => {
    fc.assert(
      fc.property(start, vuRamps, fc.double({ min: 0, max: 1, noNaN: true }), (from, parts, where) => {
        const us = where * rampLength(parts);
        const most = Math.max(from, ...parts.map(({ target }) => target));
        expect(vusAt(from, parts, us)).to.be.within(0, most);
        expect(Number.isInteger(vusAt(from, parts, us))).to.equal(true);
        expect(vusAt(from, parts, rampLength(parts))).to.equal(parts.at(-1)?.target);
      }),
    );
  });

  it('do not change between two announced changes', () => {
    fc.assert(
      fc.property(start, vuRamps, (from, parts) => {
        for (let us = 0, steps = 0; steps < 300; steps++) {
          const next = nextVuChange(from, parts, us);
          if (next === undefined) return;
          expect(next).to.be.above(us);
          const middle = us + (next - us) * 0.99;
          // Within a rounding error of a change, either count is right.
          if (next - us < 1) {
            us = next;
            continue;
          }
          expect(vusAt(from, parts, middle)).to.equal(vusAt(from, parts, us + (next - us) * 0.01));
          us = next;
        }
      }),
      { numRuns: 100 },
    );
  });
});
