/**
 * Time, timers and randomness (`#host`). This is the only module in `src/` and `workers/` that may ask the operating
 * system for them.
 *
 * A run must be explainable from its seed, and a scheduled build replaces this module by one that owns the clock.
 */

import { setPriority } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus, xoroshiro128plusFromState } from 'pure-rand/generator/xoroshiro128plus';
import type { RandomGenerator } from 'pure-rand/types/RandomGenerator';

/** Returns the microseconds since this process started: monotonic, equal in all its threads, with a fraction. */
export const nowUs = (): number => {
  // Subtract the two large times first: their difference keeps the digits that a sum would lose.
  threadStartMs ??= performance.timeOrigin - processStartMs();
  return (threadStartMs + performance.now()) * 1000;
};

/** Returns the milliseconds since 1970, for trace files that several processes write. */
export const wallMs = (): number => performance.timeOrigin + performance.now();

/** Waits `ms` milliseconds. */
export const sleep = (ms: number): Promise<void> => delay(ms);

/** Resolves after everything that is ready on the event loop has run. */
export const yieldTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/**
 * Calls `action` when the callback of the event loop that runs now has ended, and all promise reactions with it: once for
 * everything that one wake-up of this thread has caused.
 */
export const afterCallback = (action: () => void): void =>
  // A tick that is queued outside of promise reactions would run before them.
  queueMicrotask(() => process.nextTick(action));

/** Linux nice value of the threads that generate load: about a ninth of the weight of the threads that serve it. */
const LOAD_NICE = 10;

/**
 * Lowers this thread's priority below that of the threads it puts load on. With many guests on few cores the
 * coordinator would otherwise queue behind all of them. With 64 vGPUs on 2 cores the median map takes 342 ms without
 * this call and 51 ms with it. Linux lowers the calling thread only. A system that lowers the whole process changes
 * no order of threads.
 */
export function yieldToOthers(): void {
  try {
    setPriority(0, LOAD_NICE);
  } catch {
    // Not permitted here: this thread keeps the same priority as the others.
  }
}

/** Calls `action` once after `ms`. The returned function cancels it. The timer does not keep the process alive. */
export const after = (ms: number, action: () => void): (() => void) => {
  const timer = setTimeout(action, ms);
  timer.unref();
  return () => clearTimeout(timer);
};

/** Calls `action` every `ms`. The returned function stops it. The timer does not keep the process alive. */
export const every = (ms: number, action: () => void): (() => void) => {
  const timer = setInterval(action, ms);
  timer.unref();
  return () => clearInterval(timer);
};

/** Draws a seed for a run without one. It is the only draw of a run that is not reproducible; every run prints its seed. */
export const drawSeed = (): number => {
  // The global loads its module on first use. An import would cost every worker 20 ms.
  const [drawn] = globalThis.crypto.getRandomValues(new Uint32Array(1));
  return (drawn as number) >>> 1 || 1;
};

/** Most bytes of one call of `getRandomValues`. */
const DRAW_BYTES_MAX = 65_536;

/** Fills `target` with random bytes that are not reproducible: entropy for the guest of a real VMM. */
export function drawBytes(target: Uint8Array): void {
  for (let at = 0; at < target.length; at += DRAW_BYTES_MAX)
    globalThis.crypto.getRandomValues(target.subarray(at, at + DRAW_BYTES_MAX) as Uint8Array<ArrayBuffer>);
}

/** Seeded pseudo-random numbers. Each VM has its own, so that its draws do not depend on other VMs. */
export class Prng {
  #generator: RandomGenerator;

  constructor(seed: number) {
    this.#generator = xoroshiro128plus(seed | 0);
  }

  /** Returns a generator that continues from `state`. @throws Error for an invalid state */
  static from(state: readonly number[]): Prng {
    const prng = new Prng(0);
    prng.#generator = xoroshiro128plusFromState(state);
    return prng;
  }

  /** Position in the sequence: four integers. */
  get state(): readonly number[] {
    return this.#generator.getState();
  }

  /** Returns an integer in [0, bound). */
  below(bound: number): number {
    return uniformInt(this.#generator, 0, bound - 1);
  }

  /** Returns 32 random bits as a non-negative number. */
  next32(): number {
    return this.below(2 ** 32);
  }

  /** Shuffles the array in place (Fisher–Yates) and returns it. */
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

/** Returns the process's start in milliseconds since 1970. `timeOrigin` is that of the thread. */
const processStartMs = (): number => performance.timeOrigin + performance.now() - process.uptime() * 1000;
