/**
 * Shared parts of the benches: rounds in which the sides take turns, medians, and output lines with bounds.
 */

/** Count of rounds in a comparison. The machine may drift by a factor of two between rounds, but not within one. */
const ROUNDS = 21;

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
};

/** One side of a comparison. Measures once and returns nanoseconds per operation. */
export type Measure = () => number | Promise<number>;

export interface Comparison {
  /** Median of each side, in the order of the sides. */
  readonly ns: readonly number[];
  /** Returns the median, over the rounds, of side `a` divided by side `b`. */
  ratio(a: number, b: number): number;
}

/** Measures the sides in turns, after two warm-up rounds. Every second round has the reverse order. */
export async function takeTurns(sides: readonly Measure[], rounds = ROUNDS): Promise<Comparison> {
  const seen: number[][] = sides.map(() => []);
  const order = sides.map((_, i) => i);
  for (let round = -2; round < rounds; round++) {
    for (const i of round % 2 ? order : order.toReversed()) {
      const value = await (sides[i] as Measure)();
      if (round >= 0) (seen[i] as number[]).push(value);
    }
  }
  return {
    ns: seen.map(median),
    ratio: (a, b) => median((seen[a] as number[]).map((value, i) => value / (seen[b] as number[])[i]!)),
  };
}

/** Prints lines and counts the bounds that hold. */
export class Report {
  holds = 0;
  fails = 0;

  /** Prints a line of information. */
  say(line: string): void {
    console.log(line);
  }

  /** Prints and counts a bound: `value` is at most or at least `bound`. */
  bound(what: string, value: number, kind: '≤' | '≥', bound: number, unit = '×'): void {
    const holds = kind === '≤' ? value <= bound : value >= bound;
    if (holds) this.holds++;
    else this.fails++;
    const measured = `${format(value)} ${unit}`.padStart(12);
    console.log(
      `${what.padEnd(58)} ${measured}   ${kind} ${`${bound} ${unit}`.padEnd(10)} ${holds ? 'holds' : 'DOES NOT HOLD'}`,
    );
  }

  /** Prints the last line and returns the exit code. */
  end(): number {
    console.log(`${this.holds} hold, ${this.fails} do not`);
    return this.fails > 0 ? 1 : 0;
  }
}

export const format = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
