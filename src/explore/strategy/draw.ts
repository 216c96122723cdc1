/**
 * Random numbers of strategies: one 32-bit state, the same sequence in every process.
 */

/** Generator of the splitmix family. */
export class Draw {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed, 0x9e3779b9) ^ 0x5bd1e995;
  }

  /** Returns 32 random bits. */
  bits(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  }

  /** Returns an integer from 0 to `limit` - 1. */
  below(limit: number): number {
    return Math.floor((this.bits() / 2 ** 32) * limit);
  }

  /** Returns a number in [0, 1). */
  unit(): number {
    return this.bits() / 2 ** 32;
  }
}

/** Probability that a plain load with several possible values returns an older one. */
const STALE_PROBABILITY = 0.3;

/** Returns the index of a plain load's value. */
export const drawValue = (draw: Draw, count: number): number =>
  draw.unit() < STALE_PROBABILITY ? 1 + draw.below(count - 1) : 0;
