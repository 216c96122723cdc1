/**
 * The record of a run: everything that its outputs read, as plain JSON. The summary is a part of it.
 */
import type { Activity } from '../metrics/activity-grid.ts';
import type { StripData } from '../metrics/address-space-strip.ts';
import type { RunSummary } from './summary.ts';

/** Something that happened at a time of the run's clock, such as a VM's boot. */
export interface RunEvent {
  /** Time on the run's clock; negative before its start. */
  readonly seconds: number;
  /** `boot`, `end` and `lost` of a VM; `phase` of its script; `abort` by a threshold; `interrupt` by a signal. */
  readonly kind: string;
  /** The VM that it concerns; null for the whole run. */
  readonly vm: number | null;
  /** Details, or empty. */
  readonly text: string;
}

/** VMs that are alike. */
export interface GroupRecord {
  readonly name: string;
  /** Number of its first VM, and count of its VMs. */
  readonly firstVm: number;
  readonly vms: number;
  readonly vgpus: number;
  readonly ramMiB: number;
  readonly viommu: string;
  readonly iommu: string;
  /** Types of a VM's vGPUs, used in turn. */
  readonly types: readonly string[];
  /** Boot of the first VM on the run's clock, and the time between two boots. */
  readonly bootSeconds: number;
  readonly bootEverySeconds: number;
}

/** A stage of the load. */
export interface StageRecord {
  readonly name: string;
  /** Name of its group; null for the VMs of all groups. */
  readonly group: string | null;
  readonly executor: string;
  /** Workloads with their weights. */
  readonly workloads: Readonly<Record<string, number>>;
  /** False for a warm-up, which counts in no metric. */
  readonly measured: boolean;
  /** Time on the run's clock in which it starts iterations. */
  readonly startSeconds: number;
  readonly endSeconds: number;
}

/** A broken contract. */
export interface ViolationRecord {
  readonly vm: number;
  readonly kind: string;
  readonly detail: string;
  /** Count of further ones of this kind without a text of their own. */
  readonly repeats: number;
}

/** A vGPU over time. Times are in microseconds of the run's clock, negative before its start. */
export interface VgpuTimeline {
  /** `vm0/gpu1`. */
  readonly name: string;
  readonly vm: number;
  /** Its number in the VM. */
  readonly vgpu: number;
  /** Parts of its container that were GPA (identity) and IOVA, with the first and the last switches. */
  readonly addressSpace: StripData;
  /** Its commands and its use of the engine; null if nothing is known. */
  readonly activity: Activity | null;
}

/** One iteration of a VU. */
export interface IterationSpan {
  readonly vm: number;
  readonly vgpu: number;
  readonly stage: string;
  readonly workload: string;
  /** Number of the VU on its vGPU in the stage. */
  readonly vu: number;
  /** Time on the run's clock, in an open stage when it was due, and its duration. */
  readonly startUs: number;
  readonly tookUs: number;
}

/** A part of a run's VMs: number from 1, and count of the parts. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

export interface RunRecord extends RunSummary {
  /** Name and version of the program. */
  readonly program: string;
  readonly question: string;
  /** Start of the run, ISO 8601 in UTC. */
  readonly startedAt: string;
  /** Start of the run's clock, in seconds after `startedAt`. */
  readonly clockStartSeconds: number;
  /** Command line that repeats the run. */
  readonly command: string;
  /** Settings of the scenario with the values of the command line. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** Null for a whole run, and for a merged one. */
  readonly shard: Shard | null;
  readonly groups: readonly GroupRecord[];
  readonly stages: readonly StageRecord[];
  /** In order of time. */
  readonly events: readonly RunEvent[];
  /** Count of events beyond the limit. */
  readonly eventsCut: number;
  readonly evidence: readonly ViolationRecord[];
  readonly timelines: readonly VgpuTimeline[];
  /** A sample of the iterations, in order of their end. Only a run that writes a timeline has some. */
  readonly iterations: readonly IterationSpan[];
}
