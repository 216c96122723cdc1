/**
 * Latency histograms, recorded in guests and merged across VMs and processes without loss.
 */

import type { Histogram } from 'hdr-histogram-js';
import hdr from 'hdr-histogram-js';

/** Names of the measured latencies, all measured by the guest. */
const LATENCY_NAMES = ['map', 'unmap', 'switch', 'interrupt', 'downtime'] as const;
export type LatencyName = (typeof LATENCY_NAMES)[number];

/** Maximum count of latencies with a name; values of further names are dropped. */
export const LATENCIES_LIMIT = 32;
/** Maximum length of a latency's name. */
export const LATENCY_NAME_LIMIT = 64;

/** Maximum recorded latency: one hour. Longer ones are recorded as this. */
const HIGHEST_NS = 3600e9;

const make = (): Histogram =>
  hdr.build({
    lowestDiscernibleValue: 1,
    highestTrackableValue: HIGHEST_NS,
    numberOfSignificantValueDigits: 2,
    useWebAssembly: false,
  });

/** Histograms by name; values in nanoseconds. */
export class Latencies {
  readonly #histograms = new Map<string, Histogram>();
  readonly #parts: Latencies[] = [];

  /** @param whole has these values, too: that of a VM for one of its devices */
  constructor(whole?: Latencies) {
    if (whole) whole.#parts.push(this);
  }

  /** Records a latency. Ignores a value that is no number, and a name beyond LATENCIES_LIMIT. */
  recordUs(name: LatencyName, microseconds: number): void {
    const nanoseconds = Math.round(Number(microseconds) * 1000);
    if (Number.isNaN(nanoseconds)) return;
    this.#of(name)?.recordValue(Math.max(1, Math.min(HIGHEST_NS, nanoseconds)));
  }

  /** Adds an encoded histogram. @throws Error if `data` is not one */
  merge(name: string, data: Uint8Array): void {
    this.#of(name)?.add(hdr.decodeFromCompressedBase64(Buffer.from(data).toString('base64'), 32, false));
  }

  encode(): { name: string; data: Uint8Array }[] {
    return [...this.#all()].map(([name, histogram]) => ({
      name,
      data: Buffer.from(hdr.encodeIntoCompressedBase64(histogram), 'base64'),
    }));
  }

  /** Returns count and percentiles in microseconds, for each name with values. */
  summary(): LatencySummary[] {
    return [...this.#all()].map(([name, histogram]) => ({
      name,
      count: histogram.totalCount,
      p50Us: histogram.getValueAtPercentile(50) / 1000,
      p95Us: histogram.getValueAtPercentile(95) / 1000,
      p99Us: histogram.getValueAtPercentile(99) / 1000,
      maxUs: histogram.maxValue / 1000,
    }));
  }

  /** Returns the histograms, with the values of the parts. */
  #all(): ReadonlyMap<string, Histogram> {
    if (this.#parts.length === 0) return this.#histograms;
    const all = new Latencies();
    for (const part of [this, ...this.#parts])
      for (const [name, histogram] of part.#histograms) all.#of(name)?.add(histogram);
    return all.#histograms;
  }

  #of(name: string): Histogram | undefined {
    let histogram = this.#histograms.get(name);
    if (!histogram) {
      if (this.#histograms.size >= LATENCIES_LIMIT || name.length > LATENCY_NAME_LIMIT) return undefined;
      histogram = make();
      this.#histograms.set(name, histogram);
    }
    return histogram;
  }
}

export interface LatencySummary {
  readonly name: string;
  readonly count: number;
  readonly p50Us: number;
  readonly p95Us: number;
  readonly p99Us: number;
  readonly maxUs: number;
}
