/**
 * The parts of a VM under declared load that its vGPUs and workloads share.
 */
import type { GuestVm } from '../../guest/guest-vm.ts';
import type { GuestIommu } from '../../guest/iommu/guest-iommu.ts';
import type { SharedMutex } from '../../guest/mutex.ts';
import type { GuestGpu } from '../../guest/vm-parts.ts';
import type { Activity } from './activity.ts';
import type { IterationLog } from './iteration-log.ts';
import type { Turns } from './turns.ts';

/** The scenario's own workload. */
export type Iteration = (vm: GuestVm, vgpu: GuestGpu) => Promise<void> | void;

export interface LoadVm {
  readonly vm: GuestVm;
  /** The driver of the vIOMMU; undefined if the guest does not use it. */
  readonly iommu: GuestIommu | undefined;
  /** Shared by work with mappings of its own, exclusive to changes of address spaces. */
  readonly translation: SharedMutex;
  readonly iteration: Iteration | undefined;
  readonly turns: Turns;
  readonly activity: Activity;
  /** Undefined if no timeline is written. */
  readonly log: IterationLog | undefined;
}
