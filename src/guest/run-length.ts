/**
 * Run-length coding of a guest's saved state: neighbouring entries become one run.
 */

/** First number and count of a run. */
export type NumberRun = readonly [first: number, count: number];

/**
 * Divides entries into runs, in their order.
 * @param continues whether `entry` is the one after `count` entries that begin with `first`
 */
export function runsOf<Entry>(
  entries: Iterable<Entry>,
  continues: (first: Entry, count: number, entry: Entry) => boolean,
): readonly (readonly [first: Entry, count: number])[] {
  const runs: [Entry, number][] = [];
  let last: [Entry, number] | undefined;
  for (const entry of entries)
    if (last && continues(last[0], last[1], entry)) last[1]++;
    else {
      last = [entry, 1];
      runs.push(last);
    }
  return runs;
}

/** Encodes numbers as ascending runs, in which each number is `step` above the previous one. */
export const encodeNumbers = (numbers: Iterable<number>, step: number): readonly NumberRun[] =>
  runsOf(
    [...numbers].sort((a, b) => a - b),
    (first, count, number) => first + count * step === number,
  );

/** Yields the numbers of runs, in the order of the runs. */
export function* decodeNumbers(runs: readonly NumberRun[], step: number): Iterable<number> {
  for (const [first, count] of runs) for (let i = 0; i < count; i++) yield first + i * step;
}
