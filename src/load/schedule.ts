/**
 * Arithmetic of the executors, without a clock: how many VUs are active, and when iterations are due. Times are in
 * microseconds from the start of a stage.
 *
 * A rate is one of the whole group. The arrivals of a group have the numbers 0, 1, 2, …, and VM i of n starts those with
 * number mod n = i. Nothing is rounded, and no VM needs to know the others.
 */

/** A part of a ramp: a linear change to `target` within `durationUs`. */
export interface Ramp {
  readonly durationUs: number;
  readonly target: number;
}

/** A VM's place in its group. */
export interface Share {
  readonly index: number;
  readonly count: number;
}

/** Returns the count of numbers below `total` that VM `index` of `count` has. */
export const shareOf = (total: number, { index, count }: Share): number =>
  Math.max(0, Math.ceil((total - index) / count));

/** Returns the length of all parts. */
export const rampLength = (ramps: readonly Ramp[]): number =>
  ramps.reduce((sum, { durationUs }) => sum + durationUs, 0);

/**
 * Returns the count of active VUs at a time. A VU is added when the line reaches its number from below, and removed when
 * the line reaches the number before it from above. After the last part, its target holds.
 */
export function vusAt(start: number, ramps: readonly Ramp[], us: number): number {
  let [from, begin] = [start, 0];
  for (const { durationUs, target } of ramps) {
    if (us < begin + durationUs) {
      const value = from + ((target - from) * (us - begin)) / durationUs;
      return target > from ? Math.floor(value) : Math.ceil(value);
    }
    begin += durationUs;
    from = target;
  }
  return from;
}

/** Returns the next time after `us` at which {@link vusAt} may change; undefined if it stays. */
export function nextVuChange(start: number, ramps: readonly Ramp[], us: number): number | undefined {
  let [from, begin] = [start, 0];
  for (const { durationUs, target } of ramps) {
    const end = begin + durationUs;
    if (us < end) {
      if (from === target) return end;
      const step = durationUs / Math.abs(target - from);
      const steps = Math.floor((us - begin) / step) + 1;
      const next = begin + steps * step;
      return Math.min(end, next > us ? next : begin + (steps + 1) * step);
    }
    begin = end;
    from = target;
  }
  return undefined;
}

/** Returns when arrival `number` of a constant rate is due. */
export const constantArrival = (number: number, perSecond: number): number => (number / perSecond) * 1e6;

/**
 * Returns when arrival `number` of a changing rate is due: when the integral of the rate passes `number`. Undefined if
 * that is after the last part. Rates are per second.
 */
export function rampArrival(number: number, startRate: number, ramps: readonly Ramp[]): number | undefined {
  let [rate, begin, before] = [startRate, 0, 0];
  for (const { durationUs, target } of ramps) {
    const seconds = durationUs / 1e6;
    const within = ((rate + target) / 2) * seconds;
    if (number < before + within) {
      const at = begin + 1e6 * timeToReach(number - before, rate, (target - rate) / seconds);
      return Math.min(at, begin + durationUs);
    }
    before += within;
    begin += durationUs;
    rate = target;
  }
  return undefined;
}

/** Solves rate·t + slope·t²/2 = area for the smaller t ≥ 0, in a form without cancellation. */
function timeToReach(area: number, rate: number, slope: number): number {
  if (area <= 0 && rate > 0) return 0;
  const root = Math.sqrt(Math.max(0, rate * rate + 2 * slope * area));
  return rate + root === 0 ? 0 : (2 * area) / (rate + root);
}
