/**
 * The interface of a device model: the model itself, and everything it may use. It is narrow, so that a model can be
 * tested alone.
 *
 * A model lives in IOVA space (R1): nothing here shows whether there is a vIOMMU.
 */

import type { Scanout } from '../abi/scanout.ts';
import type { Iova } from '../memory/address.ts';
import type { ConfigSpace } from '../pci/config-space.ts';
import type { StateReader, StateValues } from '../proto/state-codec.ts';
import type { BarIndex, BarRegion } from './bar-region.ts';
import type { DeviceDma } from './dma.ts';
import type { DeviceMemory } from './memory.ts';
import type { ServedContext } from './served-context.ts';

export type { StateReader, StateValues };

/**
 * `idle`: nothing to do until a register is written or a timer is due. `more`: call again. `stalled`: wait for the
 * address space.
 */
export type StepResult = 'idle' | 'more' | 'stalled';

/**
 * State that only the model knows, for a migration. Configuration space, the register files behind the BARs and the
 * device's memories are migrated without it. It never contains an HPA, because pins are not migrated.
 */
export interface ModelState {
  /** Version of the values, from 1. It increases with every change of them. */
  readonly version: number;
  /** Oldest version that `restore` reads; by default `version`. */
  readonly oldest?: number;
  /**
   * Returns the values. The device has stopped and keeps its pins, because it may resume here if the migration fails.
   */
  save(): StateValues;
  /**
   * Restores the values in a new device, after registers and memories. The device does not run yet: it may set
   * timers, but must not use DMA, pins or interrupts. @throws StateError
   */
  restore(state: StateReader): void;
}

/**
 * A migration stream in a format of the model's own, in place of the runtime's. It is for a device whose format is
 * given, and contains everything: no register or memory is migrated beside it.
 */
export interface ModelStream {
  /** Begins to save: while the device runs, and again when it has `stopped`. */
  begin(stopped: boolean): void;
  /** Returns the next bytes, at most `maxBytes`; fewer at the end. */
  read(maxBytes: number): Uint8Array;
  /** Takes the next bytes in a new device. @throws StateError */
  write(bytes: Uint8Array): void;
  /** Restores the device. @throws StateError for an incomplete stream */
  finish(): void;
}

/** A device model: registers that the guest accesses, and work done in bounded steps. */
export interface DeviceModel {
  readonly config: ConfigSpace;
  /** The region behind each BAR. Write actions run in the device's thread, before the next step. */
  readonly bars: Readonly<Partial<Record<BarIndex, BarRegion>>>;
  /** Counters of the model, in addition to `DeviceContext.metrics`. They are read at the end. */
  readonly counters?: Readonly<Record<string, number>>;
  /** Count of accesses whose translation the model had cached, and of those that it had to look up. */
  readonly translations?: { readonly hits: number; readonly misses: number };
  /** The device's own memories, behind BARs or not. The runtime migrates them. Their names are unique. */
  readonly memories?: readonly DeviceMemory[];
  /** A device without it cannot be migrated, because the state that only the model knows would be lost. */
  readonly state?: ModelState | undefined;
  readonly stream?: ModelStream | undefined;
  /**
   * Returns the displayed picture, if the model is a display and switched on. It serves screenshots; the guest does
   * not see it.
   */
  scanout?(): Scanout | undefined;
  /** Does a bounded piece of work (microseconds). Control messages are served between steps. */
  step(): StepResult;
  /** Called when the device stops until its next step. It must release what it shares with other devices. */
  suspend?(): void;
  /** Drops every pin in [iova, iova + size) before it returns. The range is about to be unmapped. */
  dmaUnmap(iova: Iova, size: number): void;
  /** Drops every pin. The device is being removed. */
  close(): void;
}

/** Time as a device sees it: the host's clock in a run, a manual clock in a test. */
export interface DeviceTimers {
  /** Microseconds since an arbitrary start; never decreases. */
  nowUs(): number;
  /**
   * Runs `action` in the device's thread once, `delayUs` microseconds from now or a little later. Returns a function
   * that cancels it.
   * @throws RangeError for a delay that is not a number from 0 to TIMER_DELAY_LIMIT_US, or beyond TIMERS_LIMIT timers
   */
  after(delayUs: number, action: () => void): () => void;
}

/** Metrics that a model keeps for the report, by name. The report shows their sums over all devices. */
export interface DeviceMetrics {
  /** Adds `by` (default 1) to a metric that starts at 0. @throws RangeError, see METRICS_LIMIT */
  add(name: string, by?: number): void;
  /** Sets a metric. @throws RangeError, see METRICS_LIMIT */
  set(name: string, value: number): void;
  get(name: string): number;
}

/** The environment of a model. */
export interface DeviceContext {
  /** `vm0/gpu1`, for messages. */
  readonly name: string;
  readonly dma: DeviceDma;
  readonly timers: DeviceTimers;
  readonly metrics: DeviceMetrics;
  /** Raises interrupt `vector`. It is delivered if the guest has enabled MSI. */
  interrupt(vector: number): void;
  /** Fills `target` with random bytes: the host's for a VMM, those of a seed in a run. */
  random(target: Uint8Array): void;
  /** Services of a device that a VMM drives; undefined in a run. */
  readonly served?: ServedContext;
  /** Adds a line to the report. Lines are cut at LOG_LINE_LIMIT characters, and dropped beyond LOG_LINES_LIMIT. */
  log(text: string): void;
}

/** A scenario's settings for one device. */
export interface DeviceOptions {
  /** Name of a deliberate fault; empty for a sound model. */
  readonly fault: string;
  /** The device's slot on a physical GPU, for a model that is a GPU and knows its type. */
  readonly gpu?: unknown;
}

/** Default export of a model file: creates the model of one device. */
export type ModelFactory = (context: DeviceContext, options: DeviceOptions) => DeviceModel;
