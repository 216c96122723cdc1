/**
 * Access of the engines to translated pages in guest memory, in VRAM and in BARs of other devices. A copy between pinned
 * host pages is done in place. All other copies between different memories, and the loads and stores of kernels and
 * fences, use short DMA.
 */
import { crc32 } from 'node:zlib';
import { type DeviceDma, DMA_FAULT, DMA_OK, type DmaStatus } from '../../../device/dma.ts';
import type { DeviceMemory } from '../../../device/memory.ts';
import { type Hpa, type Iova, PAGE_SIZE } from '../../../memory/address.ts';
import type { PeerEntry, RamEntry, ShadowEntry, VramEntry } from './shadow-entries.ts';

/** Both ends of a copy: GPU virtual addresses and their pages. */
export interface CopyEnds {
  readonly target: number;
  readonly to: ShadowEntry;
  readonly source: number;
  readonly from: ShadowEntry;
}

const hpaAt = ({ pfn }: RamEntry, va: number): Hpa => (pfn * PAGE_SIZE + (va % PAGE_SIZE)) as Hpa;
const iovaAt = ({ iova }: RamEntry | PeerEntry, va: number): Iova => (iova + (va % PAGE_SIZE)) as Iova;
const offsetAt = ({ offset }: VramEntry, va: number): number => offset + (va % PAGE_SIZE);

/**
 * An entry stays valid until the next translation. A range lies within its page, except those of a copy between pinned
 * pages, which may continue in the host pages that follow.
 */
export class PageAccess {
  readonly #dma: DeviceDma;
  readonly #vram: DeviceMemory;
  readonly #faulted: (va: number, iova: number) => void;

  /** `faulted` receives the addresses of a short DMA that faults. */
  constructor(dma: DeviceDma, vram: DeviceMemory, faulted: (va: number, iova: number) => void) {
    this.#dma = dma;
    this.#vram = vram;
    this.#faulted = faulted;
  }

  /** Fills with a 32-bit value. Address and length are multiples of 4. */
  fill(page: ShadowEntry, va: number, length: number, value: number): DmaStatus {
    if (page.memory === 'ram') this.#dma.fillPinned(hpaAt(page, va), length, value | 0);
    else if (page.memory === 'vram') this.#vram.fill(offsetAt(page, va), length, value);
    else {
      const words = new Int32Array(length / Int32Array.BYTES_PER_ELEMENT).fill(value | 0);
      return this.store(page, va, new Uint8Array(words.buffer));
    }
    return DMA_OK;
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
    if (to.memory === 'vram') return this.load(from, source, vram.writable(offsetAt(to, target), length));
    if (from.memory === 'vram') return this.store(to, target, vram.readable(offsetAt(from, source), length));
    const bytes = new Uint8Array(length);
    const status = this.load(from, source, bytes);
    return status === DMA_OK ? this.store(to, target, bytes) : status;
  }

  /** Returns the CRC-32 of a range, continued from `seed`, or minus the status of an access that failed. */
  crc32(page: ShadowEntry, va: number, length: number, seed: number): number {
    if (page.memory === 'ram') return this.#dma.crc32Pinned(hpaAt(page, va), length, seed);
    if (page.memory === 'vram') return crc32(this.#vram.readable(offsetAt(page, va), length), seed);
    const bytes = new Uint8Array(length);
    const status = this.load(page, va, bytes);
    return status === DMA_OK ? crc32(bytes, seed) : -status;
  }

  load(page: ShadowEntry, va: number, bytes: Uint8Array): DmaStatus {
    if (page.memory !== 'vram') return this.#noted(page, va, this.#dma.read(iovaAt(page, va), bytes));
    this.#vram.readInto(offsetAt(page, va), bytes);
    return DMA_OK;
  }

  store(page: ShadowEntry, va: number, bytes: Uint8Array): DmaStatus {
    if (page.memory !== 'vram') return this.#noted(page, va, this.#dma.write(iovaAt(page, va), bytes));
    this.#vram.store(offsetAt(page, va), bytes);
    return DMA_OK;
  }

  #noted(page: RamEntry | PeerEntry, va: number, status: DmaStatus): DmaStatus {
    if (status === DMA_FAULT) this.#faulted(va, iovaAt(page, va));
    return status;
  }
}
