/**
 * Random numbers that favour edge values, and a digest of a case's answers.
 */
import { Prng } from '#host';

const EDGE_PERCENT = 40;
const EDGE_WORDS = [
  0, 1, 2, 3, 7, 0x80, 0xfff, 0x1000, 0xffff, 0x1f_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
];
const EDGE_WIDE = [
  0n,
  1n,
  0xfffn,
  0x1000n,
  0xfee0_0000n,
  0xfeef_ffffn,
  2n ** 32n,
  2n ** 47n,
  2n ** 48n - 1n,
  2n ** 48n,
];
const TOP_WIDE = [2n ** 53n, 2n ** 59n, 2n ** 63n, 2n ** 64n - 0x1000n, 2n ** 64n - 1n];

export class Draw {
  readonly #prng: Prng;

  constructor(seed: number) {
    this.#prng = new Prng(seed);
  }

  below(bound: number): number {
    return this.#prng.below(bound);
  }

  chance(percent: number): boolean {
    return this.#prng.below(100) < percent;
  }

  one<T>(items: readonly T[]): T {
    return items[this.#prng.below(items.length)] as T;
  }

  /** Returns 32 random bits, often an edge value. */
  word(): number {
    return this.chance(EDGE_PERCENT) ? this.one(EDGE_WORDS) : this.#prng.next32();
  }

  /** Returns 64 random bits, often an edge value. */
  wide(): bigint {
    if (this.chance(EDGE_PERCENT)) return this.one(this.chance(70) ? EDGE_WIDE : TOP_WIDE);
    const value = (BigInt(this.#prng.next32()) << 32n) | BigInt(this.#prng.next32());
    return value >> BigInt(this.below(64));
  }
}

const FNV_PRIME = 0x0100_0193;
const LANE_PRIME = 0x85eb_ca6b;

/** Hash of two 32-bit lanes over all added numbers. */
export class Digest {
  #low = 0x811c_9dc5;
  #high = 0x1b87_3593;

  add(value: number): void {
    this.#word(value | 0);
    this.#word(Math.floor(value / 2 ** 32) | 0);
  }

  addWide(value: bigint): void {
    this.#word(Number(BigInt.asIntN(32, value)));
    this.#word(Number(BigInt.asIntN(32, value >> 32n)));
  }

  get hex(): string {
    return [this.#high, this.#low].map((lane) => (lane >>> 0).toString(16).padStart(8, '0')).join('');
  }

  #word(word: number): void {
    this.#low = Math.imul(this.#low ^ word, FNV_PRIME);
    this.#high = Math.imul(this.#high ^ (this.#low >>> 15) ^ word, LANE_PRIME);
  }
}
