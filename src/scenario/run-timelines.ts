/**
 * The timelines of a run's vGPUs, one by one: their address spaces and their activity.
 */
import { nowUs, wallMs } from '#host';
import { ActivityGrid } from '../metrics/activity-grid.ts';
import { AddressSpaceStrip } from '../metrics/address-space-strip.ts';
import type { MetricChange } from '../metrics/metrics.ts';
import type { FrameBodies } from '../proto/schema.ts';
import type { VgpuTimeline } from '../report/record.ts';

/** Limits of the segments of one strip; between them, many vGPUs have fewer. */
const SEGMENTS_MAX = 192;
const SEGMENTS_MIN = 32;
const SEGMENTS = 32_768;

export class RunTimelines {
  /** Number of each VM's first vGPU. */
  readonly #first: readonly number[];
  readonly #strips: (AddressSpaceStrip | undefined)[];
  readonly #activity: ActivityGrid;
  readonly #segments: number;
  readonly #kind: string;

  /**
   * @param vgpus count of vGPUs of each VM
   * @param kind word of the devices' names: `gpu` or `dev`
   * @param seconds least length of a bucket
   */
  constructor(vgpus: readonly number[], kind: string, seconds: number) {
    this.#kind = kind;
    let count = 0;
    this.#first = vgpus.map((own) => {
      count += own;
      return count - own;
    });
    this.#strips = new Array(count);
    this.#activity = new ActivityGrid(count, seconds);
    this.#segments = Math.min(
      SEGMENTS_MAX,
      Math.max(SEGMENTS_MIN, Math.floor(SEGMENTS / Math.max(1, count))),
    );
  }

  /** Adds the commands and the use of the engines among what the metrics of a VM have gained. */
  metrics(vm: number, second: number, changes: readonly MetricChange[]): void {
    for (const change of changes) {
      const row = this.#row(vm, Number(change.tags.vgpu));
      if (change.name === 'command_latency') this.#activity.addCommands(row, second, change);
      else if (change.name === 'gpu_busy') this.#activity.addEngineUse(row, second, change);
    }
  }

  addressSpaces(vm: number, { devices }: FrameBodies['vmAddressSpaces']): void {
    for (const { device, ...change } of devices) {
      const row = this.#row(vm, device);
      if (row < 0) continue;
      this.#strips[row] ??= new AddressSpaceStrip(this.#segments);
      this.#strips[row].add(change);
    }
  }

  /** Returns the timelines of all vGPUs. @param startUs start of the run's clock, on the scale of `nowUs()` */
  list(startUs: number): readonly VgpuTimeline[] {
    const toClock = nowUs() - startUs - wallMs() * 1000;
    return this.#first.flatMap((first, vm) =>
      Array.from({ length: this.#countOf(vm) }, (_, vgpu) => this.#timeline(first + vgpu, vm, vgpu, toClock)),
    );
  }

  #timeline(row: number, vm: number, vgpu: number, toClock: number): VgpuTimeline {
    const { segments, switches } = this.#strips[row]?.data ?? { segments: [], switches: [] };
    const onClock = <Timed extends { readonly startUs: number }>(timed: Timed): Timed => ({
      ...timed,
      startUs: Math.round(timed.startUs + toClock),
    });
    return {
      name: `vm${vm}/${this.#kind}${vgpu}`,
      vm,
      vgpu,
      addressSpace: {
        segments: segments.map((segment) => ({
          ...onClock(segment),
          gpaBytes: Math.round(segment.gpaBytes),
          iovaBytes: Math.round(segment.iovaBytes),
        })),
        switches: switches.map(onClock),
      },
      activity: this.#activity.activity(row) ?? null,
    };
  }

  /** Returns the row of a vGPU, or -1. */
  #row(vm: number, vgpu: number): number {
    const first = this.#first[vm];
    return first !== undefined && vgpu >= 0 && vgpu < this.#countOf(vm) ? first + vgpu : -1;
  }

  #countOf(vm: number): number {
    return (this.#first[vm + 1] ?? this.#strips.length) - (this.#first[vm] ?? 0);
  }
}
