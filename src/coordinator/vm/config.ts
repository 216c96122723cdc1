/**
 * A VM's configuration and its interface to the coordinator.
 */
import type { Hpa } from '../../memory/address.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import type { GpuPool } from '../gpu-pool.ts';
import type { HostSlabs } from '../host-slabs.ts';
import type { DeviceSupervisor } from '../workers/supervisor.ts';
import type { HostSocket } from './migration/host-socket.ts';
import type { StripRecorder } from './strip-recorder.ts';
import type { VmSampler } from './vm-sampler.ts';

export interface VmConfig {
  readonly process: number;
  readonly vm: number;
  readonly vgpus: number;
  /** The devices' mdev types, by index. */
  readonly mdevTypes: readonly string[];
  readonly seed: number;
  readonly hpaBase: Hpa;
  readonly ramBytes: number;
  readonly viommu: string;
  readonly scenario: string;
  readonly params: Readonly<Record<string, unknown>>;
  /** Types of its vGPUs, by index and then from the first one again; empty for those of the run. */
  readonly gpuTypes: readonly string[];
  /** When the VM boots, on the run's clock; 0 for a VM that boots before the clock starts. */
  readonly bootUs: number;
  /** The VM's part of the declared load, as JSON; empty without one. */
  readonly load: string;
  readonly timeoutMs: number;
  /** Names of built-in device models, which the devices take in turn, or the URL of a user's file. */
  readonly model: string;
  /** The file's text without types; if empty, each worker reads the file. */
  readonly modelSource: string;
  /** Time limit of one call of a model. */
  readonly deviceTimeoutMs: number;
  /** Folder of the files that the script writes, made when it writes one. */
  readonly folder: string;
  /** Fault to inject into this VM, or empty. */
  readonly inject: string;
  /** Count of the VM's migrations so far. */
  readonly migrations: number;
  /** Why each device was lost before the VM arrived here, by index; empty for one that was not. */
  readonly lostDevices: readonly string[];
  /** State of the load at the VM's last shutdown, as JSON; empty for a VM that starts it. */
  readonly loadState: string;
}

/** A VM that has arrived from another host. */
export interface ArrivedVm {
  readonly config: VmConfig;
  readonly devices: readonly { readonly index: number; readonly strip: StripRecorder }[];
  readonly sampler: VmSampler;
  /** Ends the stages of the guest's declared load. */
  stopLoad(): void;
  /** Ends the guest, because the run is interrupted. */
  interrupt(): void;
}

/** The VMs' connection to the run that they are part of. */
export interface LoadChannel {
  /** Reports that a VM is ready for its load; resolves to the start of the run's clock, on the scale of `nowUs()`. */
  booted(vm: number): Promise<number>;
  /** Start of the run's clock, as of {@link booted}. */
  readonly started: Promise<number>;
  /** Reports that the guest of a VM has begun a phase of its script. */
  phase?(vm: number, name: string): void;
  /** Reports what the metrics of a VM have gained; resolves when the channel has taken it. */
  metrics(vm: number, message: FrameBodies['vmMetrics']): Promise<void> | void;
}

/** The coordinator's services for one VM. */
export interface VmContext {
  readonly doorbell: SharedArrayBuffer;
  readonly doorbellSenders: number;
  /** This VM's first number on the doorbell: its vIOMMU's, then one per device. */
  readonly firstBit: number;
  readonly supervisor: DeviceSupervisor;
  readonly gpus: GpuPool;
  readonly slabs: HostSlabs;
  readonly workers: { readonly guest: URL };
  trace(frame: Uint8Array): void;
  readonly load: LoadChannel;
  /** Connects to other hosts; undefined if no VM migrates. */
  readonly hostSocket: HostSocket | undefined;
  /** Reports that a VM from another host runs here, with its result to come. */
  arrived(vm: ArrivedVm, result: Promise<FrameBodies['vmResult']>): void;
  /** Has this doorbell number served again, in a later turn. */
  reschedule(bit: number): void;
}

/** Returns a VM's configuration at another host, with the rest of the script's time. @param runUs how long it has run here */
export function configAt(
  process: number,
  config: VmConfig,
  devices: readonly { readonly alive: boolean; readonly failure: string; readonly leaving: string }[],
  runUs: number,
): VmConfig {
  const timeoutMs = Math.max(1, Math.ceil(config.timeoutMs - runUs / 1000));
  const lostDevices = devices.map(({ alive, failure, leaving }) => (alive ? '' : failure || leaving));
  return { ...config, process, migrations: config.migrations + 1, lostDevices, timeoutMs };
}
