/**
 * A run as it is at one moment: the state that the progress on a terminal shows.
 */
import type { ThresholdState } from '../metrics/threshold-judge.ts';
import type { RunEvent } from './record.ts';

export interface LiveStage {
  readonly name: string;
  /** Time on the run's clock in which it starts iterations. */
  readonly startSeconds: number;
  readonly endSeconds: number;
  /** Count of iterations after which it ends; undefined for a stage that ends by time. */
  readonly total: number | undefined;
  /** False for a warm-up, whose iterations are not counted. */
  readonly measured: boolean;
  readonly iterations: number;
  readonly dropped: number;
}

export interface LiveLoad {
  /** Time on the run's clock; undefined before its start. */
  readonly seconds: number | undefined;
  /** Count of VMs that run here. */
  readonly vmsInAll: number;
  /** VMs and vGPUs that have started and not ended. */
  readonly vms: number;
  readonly vgpus: number;
  readonly stages: readonly LiveStage[];
  /** Rates of the last few seconds. */
  readonly commandsPerSecond: number;
  readonly iterationsPerSecond: number;
  /** Latency of commands in the last few seconds; undefined without any. */
  readonly p99Us: number | undefined;
  readonly thresholds: readonly ThresholdState[];
  /** The last few events, the newest last. */
  readonly events: readonly RunEvent[];
}
