/**
 * The data that the script of the report draws, as compact JSON. Times are in seconds of the run's clock, latencies in
 * microseconds. It has types alone, because the browser's script imports it, too.
 */

/** Values by bucket of a time series; null for none. */
export type Bucketed = readonly (number | null)[];

interface StageSpan {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly measured: boolean;
}

interface EventMark {
  readonly at: number;
  readonly text: string;
}

/** Percentiles of a trend over time. */
interface TrendLine {
  readonly metric: string;
  /** Name of the stage, or empty for all samples. */
  readonly stage: string;
  /** Length of a bucket. */
  readonly seconds: number;
  readonly med: Bucketed;
  readonly p95: Bucketed;
  readonly p99: Bucketed;
  readonly max: Bucketed;
}

/** A counter per second over time. */
interface RateLine {
  readonly metric: string;
  readonly stage: string;
  readonly seconds: number;
  readonly perSecond: Bucketed;
}

/** A gauge or a rate over time. */
interface GaugeLine {
  readonly metric: string;
  /** Name of the group, or `all`. */
  readonly part: string;
  readonly unit: 'bytes' | 'ratio' | 'count';
  readonly seconds: number;
  readonly values: Bucketed;
}

/** Samples of a trend by value. Bucket i begins at `from[i]` and is as wide as its power of two divided by `perOctave`. */
interface Distribution {
  readonly metric: string;
  readonly stage: string;
  readonly perOctave: number;
  readonly from: readonly number[];
  readonly counts: readonly number[];
}

/** A value of each vGPU over time, as one character per bucket: see `cells.ts`. */
export interface HeatLayer {
  readonly name: string;
  readonly unit: 'time' | 'count' | 'ratio';
  /** Values of the first and the last level; the levels between them are logarithmic. */
  readonly min: number;
  readonly max: number;
  /** A text for each vGPU. */
  readonly rows: readonly string[];
}

interface Heat {
  readonly seconds: number;
  readonly layers: readonly HeatLayer[];
}

/** The vGPUs of one physical GPU. */
export interface GpuShares {
  readonly name: string;
  readonly fairness: number | null;
  readonly vgpus: readonly {
    readonly name: string;
    readonly type: string;
    /** Part of the engine's time that it has used, and its part of what all its vGPUs have used. */
    readonly used: number;
    readonly part: number;
  }[];
}

/**
 * Kinds before and after (0 nothing, 1 GPA, 2 IOVA), start in µs, µs until the old mappings were gone, µs in all, mapped KiB
 * before and after.
 */
export type SwitchRow = readonly [number, number, number, number, number, number, number];

/** A device's address space over time. */
export interface StripRow {
  readonly start: number;
  /** For each segment: µs, percent of it with GPA and with IOVA, mapped KiB of GPA and of IOVA, count of switches. */
  readonly segments: readonly number[];
  readonly switches: readonly SwitchRow[];
  /** Count of all its switches. */
  readonly switchCount: number;
}

export interface PageModel {
  /** Time at which the charts begin, and the length of the run's clock. */
  readonly from: number;
  readonly seconds: number;
  readonly stages: readonly StageSpan[];
  readonly events: readonly EventMark[];
  readonly trends: readonly TrendLine[];
  readonly rates: readonly RateLine[];
  readonly distributions: readonly Distribution[];
  readonly gauges: readonly GaugeLine[];
  /** Names of the vGPUs, in the order of the rows of `heat` and `strips`. */
  readonly vgpus: readonly string[];
  readonly heat: Heat | null;
  readonly gpus: readonly GpuShares[];
  readonly strips: readonly StripRow[];
}
