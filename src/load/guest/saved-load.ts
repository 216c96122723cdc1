/**
 * State of a load in its guest, as plain JSON: with it the same VUs continue their iterations at another host.
 */
import type { StageProgress } from './executors.ts';

/** A VU's buffers, by address. */
interface SavedBuffer {
  readonly source: readonly number[];
  readonly target: readonly number[];
  readonly iovas: readonly number[];
}

export interface SavedLoadGpu {
  /** Position of the vGPU among the devices of the VM. */
  readonly index: number;
  /** Buffers of all VUs, by slot. */
  readonly buffers: readonly SavedBuffer[];
  /** IDs of the domains that `domain-switch` uses in turn. */
  readonly domains: readonly number[];
  readonly displayOn: boolean;
  /** The large buffer: ID of its context, and its GPA; null before its first use. */
  readonly big: { readonly context: number; readonly block: number } | null;
}

export interface SavedVu {
  /** Slot of its buffers on its vGPU. */
  readonly slot: number;
  readonly iterations: number;
  readonly prng: readonly number[];
}

/** A stage that has not started, that runs, or that has ended. */
export type SavedStage =
  | { readonly state: 'waiting' | 'ended' }
  | {
      readonly state: 'running';
      readonly progress: StageProgress;
      /** VUs of each vGPU. */
      readonly vus: readonly (readonly SavedVu[])[];
    };

export interface SavedLoad {
  readonly readyUs: number;
  readonly gpus: readonly SavedLoadGpu[];
  /** In the order of the plan. */
  readonly stages: readonly SavedStage[];
}
