/**
 * Samples of a VM's devices once a second, as metrics: mapped and pinned pages, cached translations, and the use of the
 * physical GPUs' engines.
 */
import { WAIT_STEPS } from '../../gpu/layout.ts';
import type { VgpuStats } from '../../gpu/stats.ts';
import { PAGE_SIZE } from '../../memory/address.ts';
import { Aggregate } from '../../metrics/aggregate.ts';
import { METRICS } from '../../metrics/catalogue.ts';
import { bucketOf, lowerEdgeOf } from '../../metrics/histogram.ts';
import type { MetricChange } from '../../metrics/metrics.ts';
import type { Placement } from '../gpu-pool.ts';
import type { VmDevice } from './device.ts';

/** Bucket of a metric's histogram that begins at 1 µs, as the second bucket of waits does. */
const FIRST_WAIT_BUCKET = bucketOf(1);

/** Gains of the devices since the last sample. */
export interface VmSample {
  readonly changes: readonly MetricChange[];
  /** Engine time of each vGPU for its share: ns divided by the part of the engine. */
  readonly engineUse: readonly number[];
}

interface Totals {
  readonly hits: number;
  readonly misses: number;
  readonly stats: VgpuStats | undefined;
}

export class VmSampler {
  readonly #devices: readonly VmDevice[];
  readonly #slots: readonly (Placement | undefined)[];
  readonly #statsOf: (placement: Placement) => VgpuStats;
  /** Totals at the last sample, by device. */
  #before: readonly Totals[];

  /** @param slots slots of the devices on physical GPUs, by index */
  constructor(
    devices: readonly VmDevice[],
    slots: readonly (Placement | undefined)[],
    statsOf: (placement: Placement) => VgpuStats,
  ) {
    this.#devices = devices;
    this.#slots = slots;
    this.#statsOf = statsOf;
    this.#before = devices.map(() => ({ hits: 0, misses: 0, stats: undefined }));
  }

  /** @param isLast true when the devices have stopped: what they hold then is no sample */
  take(isLast = false): VmSample {
    const changes: MetricChange[] = [];
    const engineUse: number[] = [];
    const totals = this.#devices.map((device) => this.#totalsOf(device));
    for (const [i, device] of this.#devices.entries()) {
      const [now, before] = [totals[i] as Totals, this.#before[i] as Totals];
      const add = (name: string, samples: Aggregate) => {
        const { type, unit } = METRICS[name] as (typeof METRICS)[string];
        if (samples.count > 0)
          changes.push({ name, type, unit, tags: { vgpu: String(i) }, ...samples.data() });
      };
      if (!isLast && device.alive && device.isReady) {
        add('mapped_pages', gauge(device.container.mappedBytes / PAGE_SIZE));
        add('pinned_pages', gauge(device.link.use.pinnedPages));
      }
      add('iotlb_hits', hitRate(before, now));
      if (!now.stats) continue;
      add('gpu_wait', waitsBetween(before.stats, now.stats));
      const busyUs = now.stats.busyUs - (before.stats?.busyUs ?? 0);
      const clockUs = now.stats.clockUs - (before.stats?.clockUs ?? 0);
      if (isLast || clockUs <= 0) continue;
      add('gpu_busy', gauge(busyUs / clockUs));
      engineUse.push(Math.round((busyUs * 1000) / now.stats.share));
    }
    this.#before = totals;
    return { changes, engineUse };
  }

  #totalsOf(device: VmDevice): Totals {
    const { hits, misses } = device.link.use;
    const placement = this.#slots[device.index];
    return { hits, misses, stats: placement && this.#statsOf(placement) };
  }
}

function gauge(value: number): Aggregate {
  const samples = new Aggregate('gauge');
  samples.add(value);
  return samples;
}

/** Returns the part of the accesses with a cached translation. The counts wrap at 2^32. */
function hitRate(before: Totals, now: Totals): Aggregate {
  const hits = (now.hits - before.hits) >>> 0;
  const misses = (now.misses - before.misses) >>> 0;
  const samples = new Aggregate('rate');
  if (hits + misses > 0)
    samples.merge({
      count: hits + misses,
      sum: hits,
      min: misses > 0 ? 0 : 1,
      max: hits > 0 ? 1 : 0,
      last: hits > 0 ? 1 : 0,
    });
  return samples;
}

/** Returns the waits between two readings. Their buckets are those of the metric, so that nothing is lost. */
export function waitsBetween(before: VgpuStats | undefined, now: VgpuStats): Aggregate {
  const samples = new Aggregate('trend');
  const [buckets, counts]: [number[], number[]] = [[], []];
  for (const [wait, total] of now.waits.entries()) {
    const count = total - (before?.waits[wait] ?? 0);
    if (count <= 0) continue;
    buckets.push(wait === 0 ? 0 : FIRST_WAIT_BUCKET + wait - 1);
    counts.push(count);
  }
  if (buckets.length === 0) return samples;
  const [first, last] = [buckets[0] as number, buckets.at(-1) as number];
  const max = last === 0 ? 0 : lowerEdgeOf(last + 1);
  samples.merge({
    count: counts.reduce((sum, count) => sum + count, 0),
    sum: now.waitedUs - (before?.waitedUs ?? 0),
    min: lowerEdgeOf(first),
    max,
    last: max,
    histogram: { buckets, counts },
  });
  return samples;
}

if (bucketOf(2) - FIRST_WAIT_BUCKET !== WAIT_STEPS)
  throw new Error('the buckets of waits are not those of a metric');
