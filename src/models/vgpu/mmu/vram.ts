/**
 * The vGPU's share of VRAM, and the aperture through which the guest reaches it.
 */

import { APERTURE_BYTES } from '../../../abi/vgpu/vgpu.ts';
import type { BarRegion } from '../../../device/bar-region.ts';
import { DeviceMemory } from '../../../device/memory.ts';
import type { GpuSlotHandle } from '../../../gpu/engine-slot.ts';
import { PAGE_SIZE } from '../../../memory/address.ts';

/**
 * Most VRAM that one vGPU has, whatever its type says. What its guest touches costs the machine real memory, and travels
 * when it migrates: VramSize promises no more than one device may cost.
 */
export const VRAM_BYTES_LIMIT: number = 128 * 2 ** 20;
/** VRAM of a vGPU without a slot at a GPU. */
export const VRAM_BYTES_DEFAULT: number = 64 * 2 ** 20;

/** A page of VRAM where a host page number is expected: beyond all of those, which have 30 bits. */
export const VRAM_PFN: number = 2 ** 30;
/** An offset in VRAM where an IOVA is expected, which has 48 bits. */
export const VRAM_ADDRESS: number = 2 ** 52;

/** The memory of a vGPU with this slot. */
export function createVram(slot: GpuSlotHandle | undefined): DeviceMemory {
  const share = slot?.vramMiB === undefined ? VRAM_BYTES_DEFAULT : slot.vramMiB * 2 ** 20;
  return new DeviceMemory('vram', Math.min(share, VRAM_BYTES_LIMIT));
}

/** Offset of the byte at `va` in its page of VRAM. */
export const vramOffset = (pfn: number, va: number): number =>
  (pfn - VRAM_PFN) * PAGE_SIZE + (va % PAGE_SIZE);

const allOnes = (size: number): bigint => (1n << BigInt(8 * size)) - 1n;

/** BAR 2. Beyond the share nothing answers: all ones, and writes are dropped. */
export class Aperture implements BarRegion {
  readonly size: number = APERTURE_BYTES;
  readonly #vram: DeviceMemory;
  readonly #base: () => number;

  /** `base`: the offset in VRAM of the aperture's first byte. */
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
