/**
 * Histogram with logarithmic buckets, as HdrHistogram has them: 128 buckets for each power of two. A percentile is within
 * 0.4 % of the sample that it stands for. Histograms merge without loss.
 */

/** Bits of a value's mantissa that select its bucket within a power of two. */
const MANTISSA_BITS = 7;
const BUCKETS = 2 ** MANTISSA_BITS;
/** Bits of the high word of a double below the bucket's number. */
const DROPPED_BITS = 20 - MANTISSA_BITS;

const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);
/** Index of the high word: 1 on little-endian machines. */
const HIGH = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1 ? 1 : 0;

/** Buckets with samples: number and count of each, in ascending order. */
export interface HistogramData {
  readonly buckets: readonly number[];
  readonly counts: readonly number[];
}

export class Histogram {
  /** Counts by power of two, then by bucket in it. */
  readonly #octaves: (Float64Array | undefined)[] = [];

  /** Adds a sample; a negative one counts as 0. */
  add(value: number): void {
    this.#addTo(bucketOf(value), 1);
  }

  merge({ buckets, counts }: HistogramData): void {
    for (const [i, bucket] of buckets.entries()) this.#addTo(bucket, counts[i] ?? 0);
  }

  /** Returns the middle of the bucket that holds the sample of this rank, from 1; undefined beyond the last. */
  valueAtRank(rank: number): number | undefined {
    let seen = 0;
    for (const [bucket, count] of this.#entries()) {
      seen += count;
      if (seen >= rank) return middleOf(bucket);
    }
    return undefined;
  }

  data(): HistogramData {
    const all = [...this.#entries()];
    return { buckets: all.map(([bucket]) => bucket), counts: all.map(([, count]) => count) };
  }

  clear(): void {
    for (const octave of this.#octaves) octave?.fill(0);
  }

  #addTo(bucket: number, count: number): void {
    const octave = bucket >>> MANTISSA_BITS;
    this.#octaves[octave] ??= new Float64Array(BUCKETS);
    (this.#octaves[octave] as Float64Array)[bucket % BUCKETS]! += count;
  }

  *#entries(): Iterable<readonly [bucket: number, count: number]> {
    for (const [octave, counts] of this.#octaves.entries())
      if (counts)
        for (const [i, count] of counts.entries()) if (count > 0) yield [octave * BUCKETS + i, count];
  }
}

/** Returns the number of a value's bucket; a negative value counts as 0. */
export function bucketOf(value: number): number {
  double[0] = value > 0 ? value : 0;
  return (words[HIGH] as number) >>> DROPPED_BITS;
}

/** Returns the least value of a bucket. */
export function lowerEdgeOf(bucket: number): number {
  words[HIGH] = bucket << DROPPED_BITS;
  words[1 - HIGH] = 0;
  return double[0] as number;
}

/** Returns the middle of a bucket's values. */
const middleOf = (bucket: number): number =>
  bucket === 0 ? 0 : (lowerEdgeOf(bucket) + lowerEdgeOf(bucket + 1)) / 2;
