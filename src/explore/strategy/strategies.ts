/**
 * The strategies by name.
 */
import type { Strategy } from '../model/run.ts';
import { Pct } from './pct.ts';
import { Pos } from './pos.ts';
import { RandomWalk } from './random.ts';
import { Search } from './search.ts';
import { Surw } from './surw.ts';

/** Preemptions of a bounded search by default. */
export const PREEMPTIONS = 2;

export const STRATEGIES = ['pos', 'random', 'pct', 'surw', 'bounded', 'dfs'] as const;
export type StrategyName = (typeof STRATEGIES)[number];

/** Returns a new strategy. A search ignores the seed; only `bounded` uses the bound. */
export function createStrategy(
  name: StrategyName,
  seed: number,
  preemptions: number = PREEMPTIONS,
): Strategy {
  switch (name) {
    case 'random':
      return new RandomWalk(seed);
    case 'pct':
      return new Pct(seed);
    case 'pos':
      return new Pos(seed);
    case 'surw':
      return new Surw(seed);
    case 'bounded':
      return new Search(preemptions);
    case 'dfs':
      return new Search(Number.POSITIVE_INFINITY);
  }
}

/** Returns whether a strategy ends when it has run all schedules, and ignores its seed. */
export const isSearch = (name: StrategyName): boolean => name === 'bounded' || name === 'dfs';
