/**
 * Resources that this process holds, and their growth.
 */
import { readdirSync, readFileSync } from 'node:fs';

export interface Held {
  readonly rssMiB: number;
  readonly threads: number;
  readonly descriptors: number;
  readonly maps: number;
}

/** Changes of a resource below these are noise: a pool or a heap that gains a page is no leak. */
const NOISE: Held = { rssMiB: 4, threads: 1, descriptors: 1, maps: 8 };

/** Returns what the process holds now, after a collection of what it no longer reaches. */
export function heldNow(): Held {
  // Twice: the first run finalizes what the second one frees.
  for (let i = 0; i < 2; i++) globalThis.gc?.();
  return {
    rssMiB: process.memoryUsage.rss() / 2 ** 20,
    threads: readdirSync('/proc/self/task').length,
    descriptors: readdirSync('/proc/self/fd').length,
    maps: readFileSync('/proc/self/maps', 'utf8').split('\n').length - 1,
  };
}

/** Returns the median of each resource. */
export function medianOf(samples: readonly Held[]): Held {
  const median = (of: (held: Held) => number): number => {
    const sorted = samples.map(of).sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? 0;
  };
  return {
    rssMiB: median(({ rssMiB }) => rssMiB),
    threads: median(({ threads }) => threads),
    descriptors: median(({ descriptors }) => descriptors),
    maps: median(({ maps }) => maps),
  };
}

/** Returns the resources that have grown by more than the factor and the noise. */
export function growthOf(first: Held, last: Held, factor: number): (keyof Held)[] {
  return (Object.keys(NOISE) as (keyof Held)[]).filter(
    (name) => last[name] > first[name] * factor && last[name] - first[name] > NOISE[name],
  );
}
