/**
 * Numbers that come mostly in rows, as rows: what a guest's state is full of.
 */

/** First number and length of a row. */
export type NumberRun = readonly [first: number, count: number];

/** The rows of `numbers`, each `step` above the one before it, ascending. */
export function runsOf(numbers: Iterable<number>, step: number): NumberRun[] {
  const runs: [number, number][] = [];
  let last: [number, number] | undefined;
  for (const value of [...numbers].sort((a, b) => a - b))
    if (last && last[0] + last[1] * step === value) last[1]++;
    else {
      last = [value, 1];
      runs.push(last);
    }
  return runs;
}

/** The numbers of rows, in the rows' order. */
export function* numbersOf(runs: readonly NumberRun[], step: number): Iterable<number> {
  for (const [first, count] of runs) for (let i = 0; i < count; i++) yield first + i * step;
}
