/**
 * Shortening of a failing schedule: as few turns of threads as possible, while the same rule is broken.
 */
import type { Harness } from './harness.ts';
import { memory } from './model/memory.ts';
import { type RunResult, runOnce, STALE_UNIT } from './model/run.ts';
import { Guided } from './strategy/guided.ts';

/** Most schedules that one shortening tries. */
const TRIES = 3000;

interface Turn {
  readonly thread: number;
  readonly choices: number[];
}

/** Divides choices into turns: runs of steps of one thread. */
function turnsOf(choices: readonly number[]): Turn[] {
  const turns: Turn[] = [];
  for (const choice of choices) {
    const last = turns.at(-1);
    if (last?.thread === choice % STALE_UNIT) last.choices.push(choice);
    else turns.push({ thread: choice % STALE_UNIT, choices: [choice] });
  }
  return turns;
}

/** Returns the count of turns of a schedule. */
export const countTurns = (choices: readonly number[]): number => turnsOf(choices).length;

/** Returns the candidates that have one turn fewer: a turn dropped, or moved to another turn of its thread. */
function* shorter(choices: readonly number[]): Generator<number[]> {
  const turns = turnsOf(choices);
  const joined = (parts: readonly Turn[]): number[] => parts.flatMap(({ choices: part }) => part);
  for (let i = turns.length - 1; i >= 0; i--) {
    const turn = turns[i] as Turn;
    const without = turns.filter((_, at) => at !== i);
    const next = turns.findIndex(({ thread }, at) => at > i && thread === turn.thread);
    const before = turns.findLastIndex(({ thread }, at) => at < i && thread === turn.thread);
    if (next >= 0)
      yield joined([...turns.slice(0, i), ...turns.slice(i + 1, next), turn, ...turns.slice(next)]);
    if (before >= 0) {
      const [head, between] = [turns.slice(0, before + 1), turns.slice(before + 1, i)];
      yield joined([...head, turn, ...between, ...turns.slice(i + 1)]);
    }
    yield joined(without);
  }
}

/** Returns a failing schedule with no more turns than the given one. */
export function minimise(harness: Harness, failure: RunResult, weak: boolean): RunResult {
  let best = failure;
  let tries = 0;
  for (let improved = true; improved && tries < TRIES; ) {
    improved = false;
    for (const candidate of shorter(best.choices)) {
      if (++tries > TRIES) break;
      memory.clear();
      const result = runOnce(harness, new Guided(candidate, false), { weak });
      if (result.violation?.rule !== failure.violation?.rule) continue;
      const [turns, before] = [countTurns(result.choices), countTurns(best.choices)];
      if (turns > before || (turns === before && result.steps >= best.steps)) continue;
      best = result;
      improved = true;
      break;
    }
  }
  return best;
}
