/**
 * The one module that asks the machine for time, timers and randomness (`#host`).
 *
 * Nothing else in `src/` or `workers/` may: a run must be explainable from its seed, and a scheduled build swaps
 * this module for one that owns the clock.
 */

import { setPriority } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus, xoroshiro128plusFromState } from 'pure-rand/generator/xoroshiro128plus';
import type { RandomGenerator } from 'pure-rand/types/RandomGenerator';

/** Microseconds since this process started; monotonic, the same in all its threads, finer than a microsecond. */
export const nowUs = (): number => {
  // The two large times are subtracted first: their difference keeps the digits that a sum would lose.
  threadStartMs ??= performance.timeOrigin - processStartMs();
  return (threadStartMs + performance.now()) * 1000;
};

/** Milliseconds since 1970, for trace files that several processes write. */
export const wallMs = (): number => performance.timeOrigin + performance.now();

/** Waits `ms` milliseconds. */
export const sleep = (ms: number): Promise<void> => delay(ms);

/** Lets everything that is ready on the event loop run. */
export const yieldTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Linux's nice value of threads that make load: about a ninth of the weight of those that carry it. */
const LOAD_NICE = 10;

/**
 * Lowers this thread's priority below that of the threads it puts load on. With many guests on few cores the
 * coordinator would otherwise wait its turn behind all of them (64 vGPUs on 2 cores: map p50 342 ms, with this 51 ms).
 * Linux applies it to the calling thread; where it applies to the whole process it changes nothing between threads.
 */
export function yieldToOthers(): void {
  try {
    setPriority(0, LOAD_NICE);
  } catch {
    // Not permitted here: the load is then as greedy as the rest.
  }
}

/** Calls `action` once after `ms`; the returned function cancels it. The timer keeps no process alive. */
export const after = (ms: number, action: () => void): (() => void) => {
  const timer = setTimeout(action, ms);
  timer.unref();
  return () => clearTimeout(timer);
};

/** Calls `action` every `ms`; the returned function stops it. The timer keeps no process alive. */
export const every = (ms: number, action: () => void): (() => void) => {
  const timer = setInterval(action, ms);
  timer.unref();
  return () => clearInterval(timer);
};

/** A seed for a run that was not given one. The only draw that is not reproducible; every run prints it. */
export const drawSeed = (): number => {
  // The global loads its module on first use; importing it would cost every worker 20 ms.
  const [drawn] = globalThis.crypto.getRandomValues(new Uint32Array(1));
  return (drawn as number) >>> 1 || 1;
};

/** Seeded pseudo-random numbers: one per VM, so that a run's draws do not depend on its neighbours'. */
export class Prng {
  #generator: RandomGenerator;

  constructor(seed: number) {
    this.#generator = xoroshiro128plus(seed | 0);
  }

  /** One that goes on where another was. @throws Error for what is no {@link state} */
  static from(state: readonly number[]): Prng {
    const prng = new Prng(0);
    prng.#generator = xoroshiro128plusFromState(state);
    return prng;
  }

  /** Where it is in its sequence: four integers. */
  get state(): readonly number[] {
    return this.#generator.getState();
  }

  /** An integer in [0, bound). */
  below(bound: number): number {
    return uniformInt(this.#generator, 0, bound - 1);
  }

  /** 32 random bits as a non-negative number. */
  next32(): number {
    return this.below(2 ** 32);
  }

  /** Shuffles in place (Fisher–Yates) and returns the array. */
  shuffle<T extends { [index: number]: number; length: number }>(items: T): T {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const held = items[i] as number;
      items[i] = items[j] as number;
      items[j] = held;
    }
    return items;
  }
}

let threadStartMs: number | undefined;

/** When the process started, in milliseconds since 1970: its threads each have a timeOrigin of their own. */
const processStartMs = (): number => performance.timeOrigin + performance.now() - process.uptime() * 1000;
