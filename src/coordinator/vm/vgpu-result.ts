/**
 * The results of a VM's devices, one by one: their model and type, their part of a physical GPU, and their counters.
 */
import type { VgpuStats } from '../../gpu/stats.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import type { Placement } from '../gpu-pool.ts';
import { modelAt } from '../model-names.ts';
import type { VmDevice } from './device.ts';
import type { GuestOutcome } from './guest-worker.ts';

type VgpuResult = FrameBodies['vmResult']['vgpus'][number];

const MILLION = 1_000_000;

type EngineUse = Omit<VgpuResult, 'name' | 'model' | 'histograms' | 'report' | 'failure'>;

/** Use of the engine by a device without a physical GPU. */
const NO_GPU: EngineUse = {
  type: '',
  gpu: 0,
  sharePpm: 0,
  operations: 0,
  busyUs: 0,
  waitedUs: 0,
  preemptions: 0,
  clockUs: 0,
};

/** The parts of a VM that its devices' results are made of. */
interface VgpuParts {
  /** Models of the devices, as in the run's configuration. */
  readonly models: string;
  readonly devices: readonly VmDevice[];
  /** The devices' slots on physical GPUs, by index. */
  readonly slots: readonly (Placement | undefined)[];
  readonly outcome: GuestOutcome;
  statsOf(placement: Placement): VgpuStats;
}

export const vgpuResults = ({ models, devices, slots, outcome, statsOf }: VgpuParts): VgpuResult[] =>
  devices.map((device) => {
    const placement = slots[device.index];
    const stats = placement && statsOf(placement);
    return {
      name: device.name,
      model: modelAt(models, device.index),
      ...(stats ? engineUse(stats) : NO_GPU),
      histograms: outcome.deviceHistograms[device.index] ?? [],
      ...(device.report && { report: device.report }),
      failure: device.failure,
    };
  });

const engineUse = ({ type, gpu, share, commands, preemptions, ...us }: VgpuStats): EngineUse => ({
  type,
  gpu: gpu + 1,
  sharePpm: Math.round(share * MILLION),
  operations: commands,
  busyUs: Math.round(us.busyUs),
  waitedUs: Math.round(us.waitedUs),
  preemptions,
  clockUs: Math.round(us.clockUs),
});
