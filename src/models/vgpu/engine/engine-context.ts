/**
 * Types that connect a command engine to its vGPU.
 */

import type { GpuEngine } from '../../../abi/vgpu/vgpu.ts';
import type { DeviceDma } from '../../../device/dma.ts';
import type { DeviceMemory } from '../../../device/memory.ts';
import type { GpuAddressSpaces } from '../mmu/address-spaces.ts';

/** Ring and completion area as the guest has programmed them. Addresses are IOVAs. */
export interface RingSetup {
  readonly base: number;
  readonly entries: number;
  readonly completions: number;
}

/** Events that an engine reports to its registers. */
export interface EngineEvents {
  completed(head: number): void;
  faulted(context: number, va: number, iova: number): void;
  halted(): void;
  hung(): void;
}

/** Counters over all engines of a vGPU. They reach the report as `DeviceModel.counters`. */
export type EngineCounters = {
  commands: number;
  bytesFilled: number;
  bytesCopied: number;
  bytesSummed: number;
  bytesComputed: number;
};

/** The engine's name, and the parts that it shares with the other engines of its vGPU. */
export interface EngineContext {
  readonly name: GpuEngine;
  readonly dma: DeviceDma;
  readonly spaces: GpuAddressSpaces;
  readonly vram: DeviceMemory;
  readonly counters: EngineCounters;
}
