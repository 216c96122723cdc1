/**
 * The metrics that every run has. Scripts add their own.
 */
import type { Unit } from './units.ts';

/** Kinds of metrics, as k6 has them. Their numbers are those of the protocol. */
export const METRIC_TYPES = ['counter', 'gauge', 'rate', 'trend'] as const;
export type MetricType = (typeof METRIC_TYPES)[number];

export interface MetricSpec {
  readonly type: MetricType;
  readonly unit: Unit;
  readonly meaning: string;
}

const trend = (meaning: string): MetricSpec => ({ type: 'trend', unit: 'time', meaning });
const counter = (meaning: string, unit: Unit = 'count'): MetricSpec => ({ type: 'counter', unit, meaning });
const gauge = (meaning: string, unit: Unit = 'count'): MetricSpec => ({ type: 'gauge', unit, meaning });

/** The built-in metrics by name. */
export const METRICS: Readonly<Record<string, MetricSpec>> = {
  command_latency: trend(
    'a command, from its submission to its completion; in open stages from the scheduled start',
  ),
  iteration_duration: trend('an iteration; in open stages from its scheduled start'),
  map_latency: trend('a map of the DMA API'),
  unmap_latency: trend('an unmap of the DMA API, until no device can use the pages'),
  invalidate_latency: trend('a flush of deferred unmaps'),
  switch_latency: trend('a switch of address spaces'),
  fault_latency: trend('a command that a DMA fault has ended'),
  migration_downtime: trend('the pause of a VM that has migrated'),
  reset_time: trend("a reset of a vGPU's function or engine"),
  gpu_wait: trend("a vGPU's wait for its turn on the engine of its GPU, in engine time"),
  boot_time: trend("a guest's boot: drivers, translation, buffers"),
  iterations: counter('completed iterations'),
  dropped_iterations: counter('iterations that were not started'),
  interrupted_iterations: counter('iterations that a reset or the end of their stage has ended'),
  commands: counter('completed commands'),
  bytes: counter("bytes that the devices' commands have read or written", 'bytes'),
  maps: counter('mappings added to containers'),
  unmaps: counter('mappings removed from containers'),
  pins: counter('pages that devices have pinned'),
  faults_expected: counter('announced DMA faults'),
  faults_unexpected: counter('DMA faults that were not announced'),
  stale_window_hits: counter('uses of a page between its lazy unmap and the flush that reached it'),
  violations: counter('broken contracts'),
  checks: { type: 'rate', unit: 'ratio', meaning: 'verified results with the right bytes' },
  iotlb_hits: {
    type: 'rate',
    unit: 'ratio',
    meaning: "accesses of a vGPU's engines whose translation it had cached",
  },
  gpu_busy: gauge(
    'engine time of a vGPU as a part of that of its GPU, in a second; at last in the whole run',
    'ratio',
  ),
  gpu_fairness: gauge(
    "Jain's index of the engine time of a group's vGPUs for their share, in a second; at last in the whole run",
    'ratio',
  ),
  mapped_pages: gauge('pages in the container of a vGPU'),
  pinned_pages: gauge('pages that a vGPU holds pinned'),
  vms_running: gauge('VMs that have started and not ended'),
  vgpu_rss: gauge('resident memory of a device worker', 'bytes'),
};
