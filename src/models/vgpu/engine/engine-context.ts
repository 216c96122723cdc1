/**
 * What a command engine is given, and what it tells.
 */

import type { GpuEngine } from '../../../abi/vgpu/vgpu.ts';
import type { DeviceDma } from '../../../device/dma.ts';
import type { DeviceMemory } from '../../../device/memory.ts';
import type { ModelCounters } from '../../../device/model.ts';
import type { GpuAddressSpaces } from '../mmu/address-spaces.ts';

/** Ring and completion area as the guest has programmed them; addresses are IOVAs. */
export interface RingSetup {
  readonly base: number;
  readonly entries: number;
  readonly completions: number;
}

/** What the engine tells the registers. */
export interface EngineEvents {
  completed(head: number): void;
  faulted(context: number, va: number, iova: number): void;
  halted(): void;
  hung(): void;
}

/** Of all engines of a vGPU. */
export type EngineCounters = ModelCounters & { bytesComputed: number };

/** What an engine is, and what it shares with the others of its vGPU. */
export interface EngineContext {
  readonly name: GpuEngine;
  readonly dma: DeviceDma;
  readonly spaces: GpuAddressSpaces;
  readonly vram: DeviceMemory;
  readonly counters: EngineCounters;
}
