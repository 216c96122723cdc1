/**
 * Access of the engines to translated pages in guest memory and in VRAM. A copy between pinned host pages is done in place.
 * Copies between guest memory and VRAM, and the loads and stores of kernels and fences, use short DMA.
 */
import { crc32 } from 'node:zlib';
import { type DeviceDma, DMA_OK, type DmaStatus } from '../../../device/dma.ts';
import type { DeviceMemory } from '../../../device/memory.ts';
import { type Hpa, type Iova, PAGE_SIZE } from '../../../memory/address.ts';
import type { RamEntry, ShadowEntry, VramEntry } from './shadow-entries.ts';

/** Both ends of a copy: GPU virtual addresses and their pages. */
export interface CopyEnds {
  readonly target: number;
  readonly to: ShadowEntry;
  readonly source: number;
  readonly from: ShadowEntry;
}

const hpaAt = ({ pfn }: RamEntry, va: number): Hpa => (pfn * PAGE_SIZE + (va % PAGE_SIZE)) as Hpa;
const iovaAt = ({ iova }: RamEntry, va: number): Iova => (iova + (va % PAGE_SIZE)) as Iova;
const offsetAt = ({ offset }: VramEntry, va: number): number => offset + (va % PAGE_SIZE);

/**
 * An entry stays valid until the next translation. A range lies within its page, except those of a copy between pinned
 * pages, which may continue in the host pages that follow.
 */
export class PageAccess {
  readonly #dma: DeviceDma;
  readonly #vram: DeviceMemory;

  constructor(dma: DeviceDma, vram: DeviceMemory) {
    this.#dma = dma;
    this.#vram = vram;
  }

  /** Fills with a 32-bit value. Address and length are multiples of 4. */
  fill(page: ShadowEntry, va: number, length: number, value: number): void {
    if (page.memory === 'ram') this.#dma.fillPinned(hpaAt(page, va), length, value | 0);
    else this.#vram.fill(offsetAt(page, va), length, value);
  }

  copy({ target, to, source, from }: CopyEnds, length: number): DmaStatus {
    if (to.memory === 'ram' && from.memory === 'ram') {
      this.#dma.copyPinned(hpaAt(to, target), hpaAt(from, source), length);
      return DMA_OK;
    }
    const vram = this.#vram;
    if (to.memory === 'vram' && from.memory === 'vram') {
      vram.move(offsetAt(to, target), vram, offsetAt(from, source), length);
      return DMA_OK;
    }
    if (to.memory === 'vram')
      return this.#dma.read(iovaAt(from as RamEntry, source), vram.writable(offsetAt(to, target), length));
    return this.#dma.write(iovaAt(to, target), vram.readable(offsetAt(from as VramEntry, source), length));
  }

  crc32(page: ShadowEntry, va: number, length: number, seed: number): number {
    if (page.memory === 'ram') return this.#dma.crc32Pinned(hpaAt(page, va), length, seed);
    return crc32(this.#vram.readable(offsetAt(page, va), length), seed);
  }

  load(page: ShadowEntry, va: number, bytes: Uint8Array): DmaStatus {
    if (page.memory === 'ram') return this.#dma.read(iovaAt(page, va), bytes);
    this.#vram.readInto(offsetAt(page, va), bytes);
    return DMA_OK;
  }

  store(page: ShadowEntry, va: number, bytes: Uint8Array): DmaStatus {
    if (page.memory === 'ram') return this.#dma.write(iovaAt(page, va), bytes);
    this.#vram.store(offsetAt(page, va), bytes);
    return DMA_OK;
  }
}
