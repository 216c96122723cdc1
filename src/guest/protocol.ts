/**
 * What passes between a VM's coordinator and its guest worker: the task, the two Comlink interfaces, the report.
 */

import type { Scheduling } from '../gpu/policy.ts';
import type { VgpuStats } from '../gpu/stats.ts';
import type { GuestRamHandle } from '../memory/guest-ram.ts';
import type { RamLogHandle } from '../memory/ram-log.ts';
import type { MigrationSettings, MigrationStats } from './migration-settings.ts';

/** One device as the guest finds it on its bus. */
export interface GuestDevice {
  readonly name: string;
  readonly requesterId: number;
  readonly link: SharedArrayBuffer;
}

/** What a guest's drivers and its script carry to another host: plain JSON. */
export interface GuestSnapshot {
  /** What the drivers know beside guest RAM. */
  readonly drivers: unknown;
  /** The script's own. */
  readonly script: unknown;
}

/** Everything a guest worker is given: shared memory and numbers. */
export interface GuestTask {
  readonly vm: number;
  readonly seed: number;
  /** The scenario's file, as a URL. */
  readonly scenario: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly ram: GuestRamHandle;
  readonly devices: readonly GuestDevice[];
  /** Their device model: the guest has a driver for `vgpu`, other devices are the script's. */
  readonly model: string;
  /** A word of the scenario setting `viommu`. */
  readonly viommu: string;
  /** The vIOMMU's MMIO channel. */
  readonly iommuMmio: SharedArrayBuffer;
  readonly coordinatorDoorbell: SharedArrayBuffer;
  readonly coordinatorSenders: number;
  readonly coordinatorBit: number;
  /** A deliberate fault of the guest's own driver, by name; empty for a sound one. */
  readonly fault: string;
  /** The VM comes from another host: what it brought along. */
  readonly snapshot?: GuestSnapshot | undefined;
}

/** An HdrHistogram, compressed V2 encoding; values in nanoseconds. */
interface EncodedHistogram {
  readonly name: string;
  readonly data: Uint8Array;
}

/** The end of a guest's script. */
export interface GuestReport {
  readonly operations: number;
  readonly bytesVerified: number;
  readonly mismatches: number;
  /** Failed checks, the first of them in words. */
  readonly failures: readonly string[];
  readonly notes: readonly string[];
  readonly histograms: readonly EncodedHistogram[];
  /** Message and place of what the script threw, or empty. */
  readonly error: string;
}

/** The guest worker, as the coordinator calls it (Comlink). */
export interface GuestApi {
  /** Loads the script, for {@link run} to begin at once. Its errors are told there. */
  load(): Promise<void>;
  /**
   * Runs the script to its end, or, with what a VM from another host has brought along, its `resume`. Never rejects for
   * the script's own errors.
   */
  run(control: VmControl, snapshot?: GuestSnapshot): Promise<GuestReport>;
}

/** The machine, as the guest worker calls it (Comlink): control plane only. */
export interface VmControl {
  /** Names what the script is doing now, for progress and trace. */
  phase(name: string): void | Promise<void>;
  progress(operations: number, bytesVerified: number): void | Promise<void>;
  /** The next fault of this device in the page of `iova` is meant: it is counted as expected. */
  expectFault(device: number, iova: number): void | Promise<void>;
  /**
   * Compares every device's container with a full walk of the guest's tables. Differences are violations; resolves
   * to their number.
   */
  audit(): number | Promise<number>;
  /** Divides the engines of this host process's physical GPUs in another way, for all its VMs. Rejects bad values. */
  schedule(scheduling: Scheduling): void | Promise<void>;
  /** What every vGPU of this host process has had of its engine so far. */
  gpuStats(): readonly VgpuStats[] | Promise<readonly VgpuStats[]>;
  /** The script of a VM that has come from another host goes on now. */
  resumed(): void | Promise<void>;
  /** Begins to move the VM. Answers the log in which this thread, too, marks its writes to RAM. Rejects if it cannot be. */
  beginMigration(settings: MigrationSettings): Promise<RamLogHandle>;
  /** Copies memory while the VM runs; resolves when it should pause. */
  copyMemory(): Promise<void>;
  /** The guest has stopped, `pausedUs` ago. Resolves when the VM runs elsewhere; `state` is GuestCarried as JSON. */
  handOver(state: string, pausedUs: number): Promise<MigrationStats>;
  /** The VM stays, after all. */
  abortMigration(reason: string): void | Promise<void>;
}
