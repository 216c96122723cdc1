/**
 * What a VM is made of, and what it needs of the coordinator around it.
 */
import type { Hpa } from '../../memory/address.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import type { GpuPool } from '../gpu-pool.ts';
import type { DeviceSupervisor } from '../workers/supervisor.ts';
import type { HostSocket } from './migration/host-socket.ts';

/** What a VM is made of. */
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
  readonly timeoutMs: number;
  /** Built-in device models' names, which the devices take in turn, or the URL of a user's file. */
  readonly model: string;
  /** That file's text without its types; empty to have each worker read the file. */
  readonly modelSource: string;
  /** How long a model may be busy with one call. */
  readonly deviceTimeoutMs: number;
  /** Deliberate fault for this VM, or empty. */
  readonly inject: string;
  /** How often the VM has changed its host. */
  readonly migrations: number;
}

/** A VM that has come from another host, as its new host sees it. */
export interface ArrivedVm {
  readonly config: VmConfig;
}

/** What the VM needs of the coordinator around it. */
export interface VmContext {
  readonly doorbell: SharedArrayBuffer;
  readonly doorbellSenders: number;
  /** This VM's first number on the doorbell: its vIOMMU's, then one per device. */
  readonly firstBit: number;
  readonly supervisor: DeviceSupervisor;
  readonly gpus: GpuPool;
  readonly workers: { readonly guest: URL };
  trace(frame: Uint8Array): void;
  /** The way to other hosts; undefined: no VM migrates. */
  readonly hosts: HostSocket | undefined;
  /** A VM from another host goes on here, to this result. */
  arrived(vm: ArrivedVm, result: Promise<FrameBodies['vmResult']>): void;
  /** Something waits to be served outside the doorbell's turn. */
  reschedule(bit: number): void;
}
