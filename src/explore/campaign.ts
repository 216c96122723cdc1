/**
 * A campaign: schedules of one harness by one strategy, until a rule is broken or a limit is reached.
 */
import { nowUs } from '#host';
import { type Coverage, observed } from './coverage.ts';
import type { Harness } from './harness.ts';
import { memory } from './model/memory.ts';
import { type RunOptions, type RunResult, runOnce, type Strategy } from './model/run.ts';
import { stepText } from './schedule-table.ts';
import { Guided } from './strategy/guided.ts';
import { PrunedError } from './strategy/search.ts';
import { createStrategy, type StrategyName } from './strategy/strategies.ts';

export interface CampaignOptions {
  readonly strategy: StrategyName;
  readonly seed: number;
  /** Most schedules. */
  readonly schedules: number;
  /** Time limit in milliseconds. */
  readonly timeMs?: number;
  readonly preemptions?: number;
  /** True to let plain loads return older values. */
  readonly weak?: boolean;
  /** Notes the pairs of conflicting steps. */
  readonly coverage?: Coverage | undefined;
}

export interface CampaignResult {
  /** The failing schedule; undefined if none was found. */
  readonly failure: RunResult | undefined;
  readonly schedules: number;
  readonly steps: number;
  /** Hash over the traces of all schedules. */
  readonly hash: number;
  /** True if a search has run all its schedules. */
  readonly exhausted: boolean;
}

/** Schedules between two reads of the clock. */
const SCHEDULES_PER_CLOCK = 64;

/** Runs schedules until one fails. Calls `watch` after each. */
export function runCampaign(
  harness: Harness,
  options: CampaignOptions,
  watch?: (result: RunResult) => void,
): CampaignResult {
  const chosen = createStrategy(options.strategy, options.seed, options.preemptions);
  const strategy = options.coverage ? observed(chosen, options.coverage) : chosen;
  const deadline = options.timeMs === undefined ? Number.POSITIVE_INFINITY : nowUs() + options.timeMs * 1000;
  const run: RunOptions = { weak: options.weak ?? false };
  memory.clear();
  let [schedules, steps, hash] = [0, 0, 0];
  while (schedules < options.schedules) {
    const result = runUnlessPruned(harness, strategy, run);
    if (result) {
      schedules++;
      steps += result.steps;
      hash = Math.imul(hash ^ result.hash, 0x01000193);
      watch?.(result);
      if (result.violation) return { failure: result, schedules, steps, hash, exhausted: false };
    }
    if (!strategy.end({ threads: [], enabled: [], last: -1, steps: result?.steps ?? 0 }))
      return { failure: undefined, schedules, steps, hash, exhausted: true };
    if (schedules % SCHEDULES_PER_CLOCK === 0 && nowUs() > deadline) break;
  }
  return { failure: undefined, schedules, steps, hash, exhausted: false };
}

/** Runs a schedule. Returns undefined if a search has already explored all that can follow. */
function runUnlessPruned(harness: Harness, strategy: Strategy, options: RunOptions): RunResult | undefined {
  try {
    return runOnce(harness, strategy, options);
  } catch (error) {
    if (error instanceof PrunedError) return undefined;
    throw error;
  }
}

/** Repeats a schedule exactly, with its trace. @throws ReplayError if the program does not allow it */
export function replay(harness: Harness, choices: readonly number[], weak = false): RunResult {
  memory.clear();
  return runOnce(harness, new Guided(choices, true), { weak, trace: true });
}

/** First step at which two executions of one schedule differ. */
export interface Difference {
  readonly step: number;
  readonly first: string;
  readonly second: string;
}

/**
 * Runs a schedule twice and compares the traces. Returns the first difference, which a harness has if it depends on
 * something else than the schedule, such as a variable of its module; undefined if nothing differs.
 */
export function firstDifference(harness: Harness, strategy: () => Strategy): Difference | undefined {
  memory.clear();
  const options = { trace: true };
  const [one, two] = [runOnce(harness, strategy(), options), runOnce(harness, strategy(), options)];
  if (one.hash === two.hash && one.steps === two.steps) return undefined;
  const text = ({ threads, trace }: RunResult, at: number): string => {
    const step = trace[at];
    return step ? `${threads[step.thread]}: ${stepText(step)}` : 'the end';
  };
  for (let at = 0; ; at++) {
    const [first, second] = [text(one, at), text(two, at)];
    if (first !== second || at >= one.steps) return { step: at, first, second };
  }
}
