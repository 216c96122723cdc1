/**
 * The vGPU's share of VRAM, and the aperture through which the guest reaches it.
 */

import { APERTURE_BYTES } from '../../../abi/vgpu/vgpu.ts';
import type { BarRegion } from '../../../device/bar-region.ts';
import { DeviceMemory } from '../../../device/memory.ts';
import type { GpuSlotHandle } from '../../../gpu/engine-slot.ts';
import { allOnes } from '../../../memory/bus-access.ts';

/**
 * Largest VRAM of one vGPU, whatever its type. Memory that the guest touches costs real memory and is sent at a migration,
 * so VramSize offers no more than one device may cost.
 */
export const VRAM_BYTES_LIMIT: number = 128 * 2 ** 20;
/** VRAM of a vGPU without a slot on a physical GPU. */
export const VRAM_BYTES_DEFAULT: number = 64 * 2 ** 20;

/** Creates the VRAM of a vGPU with this slot. */
export function createVram(slot: GpuSlotHandle | undefined): DeviceMemory {
  const share = slot?.vramMiB === undefined ? VRAM_BYTES_DEFAULT : slot.vramMiB * 2 ** 20;
  return new DeviceMemory('vram', Math.min(share, VRAM_BYTES_LIMIT));
}

/** BAR 2. Beyond the end of VRAM reads return all ones, and writes are dropped. */
export class Aperture implements BarRegion {
  readonly size: number = APERTURE_BYTES;
  readonly #vram: DeviceMemory;
  readonly #base: () => number;

  /** `base` returns the offset in VRAM of the aperture's first byte. */
  constructor(vram: DeviceMemory, base: () => number) {
    this.#vram = vram;
    this.#base = base;
  }

  read(offset: number, size: number): bigint {
    const at = this.#base() + offset;
    return at + size <= this.#vram.size ? this.#vram.read(at, size) : allOnes(size);
  }

  write(offset: number, size: number, value: bigint): void {
    const at = this.#base() + offset;
    if (at + size <= this.#vram.size) this.#vram.write(at, size, value);
  }

  readBlock(offset: number, target: Uint8Array): void {
    const at = this.#base() + offset;
    const inside = Math.max(0, Math.min(target.length, this.#vram.size - at));
    if (inside > 0) this.#vram.readInto(at, target.subarray(0, inside));
    target.fill(0xff, inside);
  }

  writeBlock(offset: number, source: Uint8Array): void {
    const at = this.#base() + offset;
    const inside = Math.min(source.length, this.#vram.size - at);
    if (inside > 0) this.#vram.store(at, source.subarray(0, inside));
  }
}
