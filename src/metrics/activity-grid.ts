/**
 * The activity of many vGPUs over time, for a heat map: commands and their latency in a fixed number of buckets, which pair
 * up when the run outgrows them. All vGPUs have buckets of the same length.
 */

/** Bounds of the count of buckets; between them, many vGPUs have fewer. */
const BUCKETS_MAX = 120;
const BUCKETS_MIN = 32;
const CELLS = 65_536;
/** Digits of a part. */
const DIGITS = 5;

/** The activity of one vGPU by bucket; null where nothing is known, or it has completed no command. */
export interface Activity {
  /** Length of a bucket. */
  readonly seconds: number;
  readonly commands: readonly (number | null)[];
  readonly avgUs: readonly (number | null)[];
  readonly maxUs: readonly (number | null)[];
  /** Engine time as a part of that of its GPU. */
  readonly engine: readonly (number | null)[];
}

interface Samples {
  readonly count: number;
  readonly sum: number;
  readonly max: number;
}

class Row {
  readonly counts: Float64Array;
  readonly sums: Float64Array;
  readonly maxima: Float64Array;
  /** Samples of the use of the engine, and their sum. */
  readonly uses: Float64Array;
  readonly used: Float64Array;

  constructor(buckets: number) {
    this.counts = new Float64Array(buckets);
    this.sums = new Float64Array(buckets);
    this.maxima = new Float64Array(buckets);
    this.uses = new Float64Array(buckets);
    this.used = new Float64Array(buckets);
  }

  pairUp(): void {
    const { counts, sums, maxima, uses, used } = this;
    for (let at = 0; at < counts.length; at++) {
      const [a, b] = [2 * at, 2 * at + 1];
      counts[at] = (counts[a] ?? 0) + (counts[b] ?? 0);
      sums[at] = (sums[a] ?? 0) + (sums[b] ?? 0);
      maxima[at] = Math.max(maxima[a] ?? 0, maxima[b] ?? 0);
      uses[at] = (uses[a] ?? 0) + (uses[b] ?? 0);
      used[at] = (used[a] ?? 0) + (used[b] ?? 0);
    }
  }
}

export class ActivityGrid {
  readonly #buckets: number;
  readonly #rows: (Row | undefined)[];
  #seconds: number;
  #last = 0;

  /** @param seconds first length of a bucket */
  constructor(rows: number, seconds: number) {
    this.#rows = new Array(rows);
    const buckets = Math.floor(CELLS / Math.max(1, rows));
    // Even, so that pairs are whole.
    this.#buckets = 2 * Math.floor(Math.min(BUCKETS_MAX, Math.max(BUCKETS_MIN, buckets)) / 2);
    this.#seconds = seconds;
  }

  /** Adds latencies of a vGPU's commands; ignores a vGPU that the run does not have. */
  addCommands(row: number, second: number, { count, sum, max }: Samples): void {
    this.#at(row, second, ({ counts, sums, maxima }, at) => {
      counts[at] = (counts[at] ?? 0) + count;
      sums[at] = (sums[at] ?? 0) + sum;
      maxima[at] = Math.max(maxima[at] ?? 0, max);
    });
  }

  /** Adds samples of a vGPU's use of its engine, as a part of the engine's time. */
  addEngineUse(row: number, second: number, { count, sum }: Samples): void {
    this.#at(row, second, ({ uses, used }, at) => {
      uses[at] = (uses[at] ?? 0) + count;
      used[at] = (used[at] ?? 0) + sum;
    });
  }

  #at(row: number, second: number, add: (row: Row, at: number) => void): void {
    if (!(row >= 0 && row < this.#rows.length)) return;
    while (second >= this.#seconds * this.#buckets) this.#pairUp();
    const at = Math.floor(second / this.#seconds);
    this.#rows[row] ??= new Row(this.#buckets);
    add(this.#rows[row], at);
    this.#last = Math.max(this.#last, at);
  }

  /** Returns the activity of a vGPU; undefined if it has none. */
  activity(row: number): Activity | undefined {
    const found = this.#rows[row];
    if (!found) return undefined;
    const { counts, sums, maxima, uses, used } = found;
    const each = (pick: (at: number) => number, samples = counts) =>
      Array.from({ length: this.#last + 1 }, (_, at) => (samples[at] ? pick(at) : null));
    return {
      seconds: this.#seconds,
      commands: each((at) => counts[at] ?? 0),
      avgUs: each((at) => Math.round((sums[at] ?? 0) / (counts[at] ?? 1))),
      maxUs: each((at) => Math.round(maxima[at] ?? 0)),
      engine: each((at) => Number(((used[at] ?? 0) / (uses[at] ?? 1)).toFixed(DIGITS)), uses),
    };
  }

  #pairUp(): void {
    for (const row of this.#rows) row?.pairUp();
    this.#seconds *= 2;
    this.#last >>= 1;
  }
}
