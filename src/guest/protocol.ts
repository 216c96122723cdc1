/**
 * Protocol between a VM's coordinator and its guest worker: the task, the two Comlink interfaces and the report.
 */

import type { Scheduling } from '../gpu/policy.ts';
import type { VgpuStats } from '../gpu/stats.ts';
import type { GuestRamHandle } from '../memory/guest-ram.ts';
import type { RamLogHandle } from '../memory/ram-log.ts';
import type { MetricsMessage } from '../metrics/wire.ts';
import type { MigrationSettings, MigrationStats } from './migration-settings.ts';

/** A device on the guest's PCI bus. */
export interface GuestDevice {
  readonly name: string;
  readonly requesterId: number;
  readonly link: SharedArrayBuffer;
  /** Folder of screenshots with a relative path; by default the working directory. */
  readonly folder?: string;
}

/** State of a guest's drivers and its script for another host, as plain JSON. */
export interface GuestSnapshot {
  /** A SavedGuest: what the drivers know beside guest RAM. */
  readonly drivers: unknown;
  /** Result of the script's `work`; under declared load a SavedLoad. */
  readonly script: unknown;
}

/** Input of a guest worker: shared memory and numbers. */
export interface GuestTask {
  readonly vm: number;
  readonly seed: number;
  /** URL of the scenario's file. */
  readonly scenario: string;
  readonly params: Readonly<Record<string, unknown>>;
  /** Folder of the files that the script writes, made when it writes one. */
  readonly folder: string;
  readonly ram: GuestRamHandle;
  readonly devices: readonly GuestDevice[];
  /** Model of the devices. The guest has a driver for `vgpu`; for other models the script is the driver. */
  readonly model: string;
  /** Kind of the vIOMMU, as in the scenario's setting `viommu`. */
  readonly viommu: string;
  /** Memory of the GuestJournal. */
  readonly journal: SharedArrayBuffer;
  /** The vIOMMU's MMIO channel. */
  readonly iommuMmio: SharedArrayBuffer;
  readonly coordinatorDoorbell: SharedArrayBuffer;
  readonly coordinatorSenders: number;
  readonly coordinatorBit: number;
  /** The VM's part of the declared load, as JSON; empty without one. */
  readonly load: string;
  /** State of the load that an earlier guest of the VM has left, as JSON; empty for none. */
  readonly loadState?: string;
  /** Name of a fault to inject into the guest's driver; empty for none. */
  readonly fault: string;
  /** State of a VM that arrives from another host. */
  readonly snapshot?: GuestSnapshot | undefined;
}

/** An HdrHistogram, compressed V2 encoding; values in nanoseconds. */
interface EncodedHistogram {
  readonly name: string;
  readonly data: Uint8Array;
}

/** Result of a guest's script, beside its journal. */
export interface GuestReport {
  readonly histograms: readonly EncodedHistogram[];
  /** Those of each device, by index. */
  readonly deviceHistograms: readonly (readonly EncodedHistogram[])[];
  /** Message and place of the script's error; empty if it succeeded. */
  readonly error: string;
  /** State of a declared load that has not ended, as JSON, for the next guest of the VM. */
  readonly load?: string;
}

/** Calls of the coordinator to the guest worker (Comlink). */
export interface GuestApi {
  /** Loads the script, so that {@link run} starts at once. A load error is reported by {@link run}. */
  load(): Promise<void>;
  /** Runs the script to its end; with `snapshot` runs its `resume`. Never rejects for the script's errors. */
  run(control: VmControl, snapshot?: GuestSnapshot): Promise<GuestReport>;
  /** Ends the stages of a declared load. Returns true if they run, and will end soon. */
  stopLoad(): boolean | Promise<boolean>;
  /**
   * Moves the VM to another host process while its declared load runs. Resolves to an empty text, or to the reason why
   * the VM stays.
   * @param to number of the process; undefined for the next one
   */
  migrate(to: number | undefined): Promise<string>;
  /**
   * Stops the virtual CPUs of a VM under declared load, or lets them continue: while they are stopped, no call of a driver
   * begins and no completion is taken. Returns an empty text, or the reason why they do not stop.
   */
  setPaused(paused: boolean): string | Promise<string>;
  /** Resolves to a PNG of the display of a device; rejects with the reason why there is no picture. */
  screenshot(device: number): Promise<Uint8Array>;
  /** Returns the report of a script that has not ended. */
  report(): GuestReport | Promise<GuestReport>;
  /**
   * Ends the guest's work. Resolves to its report, with the state of its load.
   * @param isOrderly true for a shutdown: iterations in flight end, and the drivers let go; else they are cut off
   */
  halt(isOrderly: boolean): GuestReport | Promise<GuestReport>;
}

/**
 * Time in which a script without a driver announces a change of its tables: longer than the deferred invalidations of
 * Linux, which come within 10 ms.
 */
export const ANNOUNCE_MS = 100;

/** Calls of the guest worker to the coordinator (Comlink): control plane only. */
export interface VmControl {
  /** Names the current phase of the script, for progress and trace. */
  phase(name: string): void | Promise<void>;
  /**
   * Reports that the guest is ready for its load. Resolves to the start of the run's clock, on the scale of `nowUs()`,
   * when all VMs of the run are ready.
   */
  booted(): Promise<number>;
  /** Resolves to the start of the run's clock on the scale of `nowUs()`, for a VM that has booted at another host. */
  clockStart(): Promise<number>;
  /** Reports what the metrics have gained. */
  metrics(message: MetricsMessage): void | Promise<void>;
  /** Announces one fault of this device in the page of `iova`: it is counted as expected. */
  expectFault(device: number, iova: number): void | Promise<void>;
  /** Allows or forbids DMA faults of this device in the page of `iova`, which may occur or not. */
  allowFault(device: number, iova: number, allowed: boolean): void | Promise<void>;
  /** Announces that the host removes this device: its loss does not fail the run. */
  expectRemoval(device: number): void | Promise<void>;
  /**
   * Begins an audit: compares every device's container with a full walk of the guest's tables. Returns the count of
   * differences. They may be changes that the guest is about to announce.
   */
  beginAudit(): Promise<number>;
  /**
   * Ends the audit, when the calls that were in flight at its begin have ended. Differences that the guest has not
   * announced are violations; returns their count, with that of the translations that a container cannot hold.
   */
  endAudit(): Promise<number>;
  /** Sets the scheduling of this host process's physical GPUs, for all its VMs. Rejects invalid values. */
  schedule(scheduling: Scheduling): void | Promise<void>;
  /** Returns the engine statistics of every vGPU of this host process. */
  gpuStats(): readonly VgpuStats[] | Promise<readonly VgpuStats[]>;
  /** Reports that the script of a VM from another host resumes now. */
  resumed(): void | Promise<void>;
  /** Begins a migration. Resolves to the log in which this thread must mark its writes to RAM. */
  beginMigration(settings: MigrationSettings): Promise<RamLogHandle>;
  /** Copies memory while the VM runs; resolves when the VM must pause. */
  copyMemory(): Promise<void>;
  /**
   * Reports that the guest has paused, `pausedUs` ago. Resolves when the VM runs at the other host.
   * @param state a {@link GuestSnapshot} as JSON
   */
  handOver(state: string, pausedUs: number): Promise<MigrationStats>;
  /** Aborts the migration: the VM stays. */
  abortMigration(reason: string): void | Promise<void>;
}
