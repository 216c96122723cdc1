/**
 * Metrics that the results of VMs and host processes have. They are known when a run has ended.
 */
import { jainIndex } from '../gpu/stats.ts';
import { ONLY_GROUP } from '../load/compile.ts';
import type { Tags } from '../metrics/metrics.ts';
import type { FrameBodies } from '../proto/schema.ts';

type VmResult = FrameBodies['vmResult'];
type HostResult = FrameBodies['hostResult'];

export interface EndMetrics {
  /** Adds a value of a built-in metric. */
  record(name: string, tags: Tags, value: number): void;
  /** Returns the tags of a VM. */
  tagsOf(vm: number): Tags;
}

/** Adds the metrics of these VMs and processes. */
export function addEndMetrics(
  metrics: EndMetrics,
  results: ReadonlyMap<number, VmResult>,
  hosts: readonly HostResult[],
): void {
  // In order of the VMs: a sum depends on the order of its terms.
  const sorted = [...results].sort(([a], [b]) => a - b);
  for (const [vm, result] of sorted) addResult(metrics, vm, result);
  addEngineUse(metrics, sorted);
  for (const { devices, devicesRss } of hosts)
    if (devices > 0) metrics.record('vgpu_rss', {}, devicesRss / devices);
}

/** Adds the use of the engines by each vGPU, and its fairness in each group. */
function addEngineUse(
  { record, tagsOf }: EndMetrics,
  results: readonly (readonly [number, VmResult])[],
): void {
  const used = new Map<string, number[]>();
  for (const [vm, { vgpus }] of results)
    for (const [vgpu, { busyUs, clockUs, sharePpm }] of vgpus.entries()) {
      if (clockUs === 0 || sharePpm === 0) continue;
      const tags = tagsOf(vm);
      record('gpu_busy', { ...tags, vgpu: String(vgpu) }, busyUs / clockUs);
      const group = tags.group ?? ONLY_GROUP;
      used.set(group, [...(used.get(group) ?? []), busyUs / sharePpm]);
    }
  for (const [group, values] of used) record('gpu_fairness', { group }, jainIndex(values));
}

/** Adds the counters that a VM's coordinator has. */
function addResult({ record, tagsOf }: EndMetrics, vm: number, result: VmResult): void {
  const tags = tagsOf(vm);
  const violations = result.violations.reduce((sum, { repeats }) => sum + 1 + repeats, 0);
  const { maps, unmaps, faultsExpected, faultsUnexpected, devices } = result;
  const values = {
    maps,
    unmaps,
    pins: devices?.pins ?? 0,
    faults_expected: faultsExpected,
    faults_unexpected: faultsUnexpected,
    violations,
  };
  for (const [name, value] of Object.entries(values)) record(name, tags, value);
}
