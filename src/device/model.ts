/**
 * What a device model is, and all it may see of the world: the narrow interface it can be tested against alone.
 *
 * A model lives in IOVA space (R1): nothing here says whether a vIOMMU exists.
 */
import type { Iova } from '../address/address.ts';
import type { ConfigSpace } from '../pci/config-space.ts';
import type { RegisterFile } from '../pci/registers.ts';
import type { DeviceDma } from './dma.ts';

/** `idle`: nothing to do until a register is written. `more`: call again. `stalled`: wait for the address space. */
export type StepResult = 'idle' | 'more' | 'stalled';

/** Counters a model keeps; the runtime adds those of its DMA. */
export interface ModelCounters {
  commands: number;
  bytesFilled: number;
  bytesCopied: number;
  bytesSummed: number;
}

/** A device model: registers that the guest reaches, and work done in bounded steps. */
export interface DeviceModel {
  readonly config: ConfigSpace;
  /** BAR 0. Write actions run in the device's thread, before the next step. */
  readonly bar0: RegisterFile<string>;
  readonly counters: ModelCounters;
  /** Does a bounded piece of work (microseconds). Control messages are served between steps. */
  step(): StepResult;
  /** Everything in [iova, iova + size) is about to be unmapped: drop every pin in it before returning. */
  dmaUnmap(iova: Iova, size: number): void;
  /** Drops every pin: the device goes. */
  close(): void;
}

/** What a model is given. */
export interface DeviceContext {
  /** `vm0/gpu1`: for messages. */
  readonly name: string;
  readonly dma: DeviceDma;
  /** Raises interrupt `vector`; the runtime delivers it if the guest has enabled MSI. */
  interrupt(vector: number): void;
}

/** A scenario's settings for one device. */
export interface DeviceOptions {
  /** A deliberate fault, by name; empty for a sound model. */
  readonly fault: string;
}

export type ModelFactory = (context: DeviceContext, options: DeviceOptions) => DeviceModel;
