/**
 * What the engine does to translated pages, in guest memory or in VRAM. Between pinned host pages it is a copy in place;
 * between guest memory and VRAM, and for kernels, short DMA.
 */
import { crc32 } from 'node:zlib';
import { type DeviceDma, DMA_OK, type DmaStatus } from '../../../device/dma.ts';
import type { DeviceMemory } from '../../../device/memory.ts';
import { type Hpa, PAGE_SIZE } from '../../../memory/address.ts';
import type { GpuAddressSpaces } from './address-spaces.ts';
import { VRAM_PFN, vramOffset } from './vram.ts';

/** A byte that has been translated, and stays so until the next translation. */
export interface GpuPage {
  readonly context: number;
  readonly va: number;
  /** What `GpuAddressSpaces.translate` has answered. */
  readonly pfn: number;
}

const hostAddress = (pfn: number, va: number): Hpa => (pfn * PAGE_SIZE + (va % PAGE_SIZE)) as Hpa;

/** None of the ranges crosses a page's end. */
export class PageAccess {
  readonly #dma: DeviceDma;
  readonly #spaces: GpuAddressSpaces;
  readonly #vram: DeviceMemory;

  constructor(dma: DeviceDma, spaces: GpuAddressSpaces, vram: DeviceMemory) {
    this.#dma = dma;
    this.#spaces = spaces;
    this.#vram = vram;
  }

  /** Address and length are multiples of 4. */
  fill(pfn: number, va: number, length: number, value: number): void {
    if (pfn < VRAM_PFN) this.#dma.fillPinned(hostAddress(pfn, va), length, value | 0);
    else this.#vram.fill(vramOffset(pfn, va), length, value);
  }

  copy(context: number, to: number, target: number, from: number, source: number, length: number): DmaStatus {
    if (to < VRAM_PFN && from < VRAM_PFN) {
      this.#dma.copyPinned(hostAddress(to, target), hostAddress(from, source), length);
      return DMA_OK;
    }
    const vram = this.#vram;
    if (to < VRAM_PFN)
      return this.#dma.write(
        this.#spaces.iovaOf(context, target),
        vram.readable(vramOffset(from, source), length),
      );
    if (from < VRAM_PFN)
      return this.#dma.read(
        this.#spaces.iovaOf(context, source),
        vram.writable(vramOffset(to, target), length),
      );
    vram.move(vramOffset(to, target), vram, vramOffset(from, source), length);
    return DMA_OK;
  }

  crc32(pfn: number, va: number, length: number, seed: number): number {
    if (pfn < VRAM_PFN) return this.#dma.crc32Pinned(hostAddress(pfn, va), length, seed);
    return crc32(this.#vram.readable(vramOffset(pfn, va), length), seed);
  }

  load({ context, va, pfn }: GpuPage, bytes: Uint8Array): DmaStatus {
    if (pfn < VRAM_PFN) return this.#dma.read(this.#spaces.iovaOf(context, va), bytes);
    this.#vram.readInto(vramOffset(pfn, va), bytes);
    return DMA_OK;
  }

  store({ context, va, pfn }: GpuPage, bytes: Uint8Array): DmaStatus {
    if (pfn < VRAM_PFN) return this.#dma.write(this.#spaces.iovaOf(context, va), bytes);
    this.#vram.store(vramOffset(pfn, va), bytes);
    return DMA_OK;
  }
}
