/**
 * Latency histograms, recorded in guests and merged across VMs and processes without loss.
 */

import type { Histogram } from 'hdr-histogram-js';
import hdr from 'hdr-histogram-js';

/** Names of the measured latencies, all measured by the guest. */
const LATENCY_NAMES = ['map', 'unmap', 'switch', 'interrupt', 'downtime'] as const;
export type LatencyName = (typeof LATENCY_NAMES)[number];

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

  recordUs(name: LatencyName, microseconds: number): void {
    this.#of(name).recordValue(Math.max(1, Math.min(HIGHEST_NS, Math.round(microseconds * 1000))));
  }

  /** Adds an encoded histogram. @throws Error if `data` is not one */
  merge(name: string, data: Uint8Array): void {
    this.#of(name).add(hdr.decodeFromCompressedBase64(Buffer.from(data).toString('base64'), 32, false));
  }

  encode(): { name: string; data: Uint8Array }[] {
    return [...this.#histograms].map(([name, histogram]) => ({
      name,
      data: Buffer.from(hdr.encodeIntoCompressedBase64(histogram), 'base64'),
    }));
  }

  /** Returns count and percentiles in microseconds, for each name with values. */
  summary(): LatencySummary[] {
    return [...this.#histograms].map(([name, histogram]) => ({
      name,
      count: histogram.totalCount,
      p50Us: histogram.getValueAtPercentile(50) / 1000,
      p95Us: histogram.getValueAtPercentile(95) / 1000,
      p99Us: histogram.getValueAtPercentile(99) / 1000,
      maxUs: histogram.maxValue / 1000,
    }));
  }

  #of(name: string): Histogram {
    let histogram = this.#histograms.get(name);
    if (!histogram) {
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
