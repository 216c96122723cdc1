/**
 * What a device model is, and all it may see of the world: the narrow interface it can be tested against alone.
 *
 * A model lives in IOVA space (R1): nothing here says whether a vIOMMU exists.
 */

import type { Scanout } from '../abi/scanout.ts';
import type { Iova } from '../memory/address.ts';
import type { ConfigSpace } from '../pci/config-space.ts';
import type { StateReader, StateValues } from '../proto/state-codec.ts';
import type { BarIndex, BarRegion } from './bar-region.ts';
import type { DeviceDma } from './dma.ts';
import type { DeviceMemory } from './memory.ts';

export type { StateReader, StateValues };

/** `idle`: nothing to do until a register is written. `more`: call again. `stalled`: wait for the address space. */
export type StepResult = 'idle' | 'more' | 'stalled';

/**
 * What only the model knows, for its way to another host. Configuration space, the register files behind the BARs and
 * the device's memories travel without it. Never an HPA: pins end with the host.
 */
export interface ModelState {
  /** Of the values, from 1: raised with every change of them. */
  readonly version: number;
  /** The oldest version that `restore` reads; `version` if nothing is said. */
  readonly oldest?: number;
  /** The values now. The device has stopped, and keeps its pins: it may go on here if the migration fails. */
  save(): StateValues;
  /**
   * Takes values up, in a device just made, after registers and memories. It does not run yet: no DMA, no pins, no
   * interrupts; timers may be set. @throws StateError
   */
  restore(state: StateReader): void;
}

/** A device model: registers that the guest reaches, and work done in bounded steps. */
export interface DeviceModel {
  readonly config: ConfigSpace;
  /** What answers behind each BAR. Write actions run in the device's thread, before the next step. */
  readonly bars: Readonly<Partial<Record<BarIndex, BarRegion>>>;
  /** Figures that a model counts in an object of its own, beside `DeviceContext.metrics`. Read at the end. */
  readonly counters?: Readonly<Record<string, number>>;
  /** Memories of the device's own, behind BARs or not: the runtime migrates them. Names are unique. */
  readonly memories?: readonly DeviceMemory[];
  /** Without it the device cannot be migrated: it would forget what nobody else knows. */
  readonly state?: ModelState | undefined;
  /** What the device displays now, if it is a display, and on. For screenshots: no guest sees it. */
  scanout?(): Scanout | undefined;
  /** Does a bounded piece of work (microseconds). Control messages are served between steps. */
  step(): StepResult;
  /** It stands still, until it is stepped again: what its neighbours share with it is theirs meanwhile. */
  suspend?(): void;
  /** Everything in [iova, iova + size) is about to be unmapped: drop every pin in it before returning. */
  dmaUnmap(iova: Iova, size: number): void;
  /** Drops every pin: the device goes. */
  close(): void;
}

/** Time, as a device sees it: the host's clock in a run, a manual one in a test. */
export interface DeviceTimers {
  /** Microseconds since an arbitrary start; never goes back. */
  nowUs(): number;
  /**
   * Runs `action` in the device's thread once, `delayUs` microseconds from now or a little later. The returned
   * function cancels it.
   * @throws RangeError for a delay that is not a number from 0 to TIMER_DELAY_LIMIT_US, or beyond TIMERS_LIMIT timers
   */
  after(delayUs: number, action: () => void): () => void;
}

/** Figures a model keeps for the report, by name; the devices' sums are printed. */
export interface DeviceMetrics {
  /** Adds `by` (default 1) to a figure that starts at 0. @throws RangeError, see METRICS_LIMIT */
  add(name: string, by?: number): void;
  /** Sets a figure. @throws RangeError, see METRICS_LIMIT */
  set(name: string, value: number): void;
  get(name: string): number;
}

/** What a model is given. */
export interface DeviceContext {
  /** `vm0/gpu1`: for messages. */
  readonly name: string;
  readonly dma: DeviceDma;
  readonly timers: DeviceTimers;
  readonly metrics: DeviceMetrics;
  /** Raises interrupt `vector`; it is delivered if the guest has enabled MSI. */
  interrupt(vector: number): void;
  /** A line for the report. Lines are cut at LOG_LINE_LIMIT characters, and dropped beyond LOG_LINES_LIMIT. */
  log(text: string): void;
}

/** A scenario's settings for one device. */
export interface DeviceOptions {
  /** A deliberate fault, by name; empty for a sound model. */
  readonly fault: string;
  /** The device's slot on a physical GPU, for a model that is a GPU. Its model knows the type. */
  readonly gpu?: unknown;
}

export type ModelFactory = (context: DeviceContext, options: DeviceOptions) => DeviceModel;
