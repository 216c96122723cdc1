/**
 * Detects a guest that spins on a status bit which cannot change. Such a guest reads one register repeatedly and
 * always gets the same value, while the device has neither work nor a timer that could change it.
 */
import { hex } from '../memory/address.ts';

/** Reads of one register, with nothing in between, from which on a guest may be spinning. */
export const SPIN_READS = 2000;
/** Shortest duration of a spin, in microseconds: a short poll is not a spin. */
export const SPIN_TIME_US = 500_000;
/** Most registers reported per device. */
export const SPINS_LIMIT = 8;

export class SpinDetector {
  readonly #clock: () => number;
  readonly #named = new Set<string>();
  #region = -1;
  #offset = -1;
  #value = 0n;
  #reads = 0;
  #since = 0;

  /** `clock` returns microseconds. */
  constructor(clock: () => number) {
    this.#clock = clock;
  }

  /** Restarts the detection: the guest wrote, or the device worked, so a register may have changed. */
  changed(): void {
    this.#reads = 0;
  }

  /** Records a guest's read. Returns the text that reports a spin, when it is first detected. */
  read(region: number, offset: number, value: bigint, name: string | undefined): string | undefined {
    if (this.#reads === 0 || region !== this.#region || offset !== this.#offset || value !== this.#value) {
      this.#region = region;
      this.#offset = offset;
      this.#value = value;
      this.#reads = 1;
      this.#since = this.#clock();
      return undefined;
    }
    if (++this.#reads < SPIN_READS || this.#reads % SPIN_READS !== 0) return undefined;
    const tookUs = this.#clock() - this.#since;
    if (tookUs < SPIN_TIME_US) return undefined;
    const place = `BAR${region}+${hex(offset)}${name ? ` (${name})` : ''}`;
    if (this.#named.has(place) || this.#named.size >= SPINS_LIMIT) return undefined;
    this.#named.add(place);
    return (
      `the guest spins on ${place}: read ${this.#reads} times in ${(tookUs / 1e6).toFixed(1)} s, always ` +
      `${hex(value)}; the device has neither work nor a timer that could change it`
    );
  }
}
