/**
 * Where a GPU virtual page is: a walk over the guest's GPU page tables, or a look into the global table of BAR 4.
 */

import {
  GLOBAL_TABLE_BYTES,
  GLOBAL_VA_LIMIT,
  GPU_PAGE_64K,
  GPU_PTE_2M,
  GPU_PTE_64K,
  GPU_PTE_PRESENT,
  GPU_PTE_VRAM,
  GPU_PTE_WRITABLE,
  GPU_ROOT_LEVELS_3,
  GPU_TABLE_ENTRIES,
  GPU_VA_LIMIT,
  GPU_VA_LIMIT_3,
  gpuEntryIova,
  gpuPageBytes,
} from '../../../abi/vgpu/memory.ts';
import type { BarRegion } from '../../../device/bar-region.ts';
import { type DeviceDma, DMA_FAULT, DMA_OK, type DmaStatus } from '../../../device/dma.ts';
import { type Iova, PAGE_2M, PAGE_SIZE, PERM_WRITE } from '../../../memory/address.ts';
import { VRAM_ADDRESS } from './vram.ts';

/** What a shadow is the shadow of. Numbers below 0 are DMA statuses with the sign changed. */
export interface PteSource {
  /** First address that cannot be translated. */
  readonly limit: number;
  /** IOVA at which the last `find` or `update` met its refusal; 0 if the tables themselves say no. */
  readonly faultIova: number;
  /**
   * IOVA of the 4 KiB page at `va`, which is a multiple of 4 KiB, if `perm` is allowed, or VRAM_ADDRESS and its offset in
   * VRAM; or below 0.
   */
  find(va: number, perm: number): number;
  /** Writes the entry, or the sixteen, of the page at `va`; the page size is that of `flags`. Below 0: refused. */
  update(va: number, iova: number, flags: number): number;
}

const allowed = (flags: number, perm: number): boolean =>
  (flags & GPU_PTE_PRESENT) !== 0 && ((perm & PERM_WRITE) === 0 || (flags & GPU_PTE_WRITABLE) !== 0);

/** Where an entry's page is, from its flags and its address. */
const pageAddress = (flags: number, address: number): number =>
  flags & GPU_PTE_VRAM ? VRAM_ADDRESS + address : address;

/** Tables of two or three levels in guest memory. Nothing is kept between two walks. */
export class TableWalk implements PteSource {
  faultIova = 0;
  readonly limit: number;
  readonly #levels: number;
  readonly #root: number;
  readonly #dma: DeviceDma;
  readonly #entry = new Uint8Array(8);
  readonly #view = new DataView(this.#entry.buffer);

  /** `low` and `high`: the root pointer. */
  constructor(dma: DeviceDma, low: number, high: number) {
    this.#dma = dma;
    this.#root = gpuEntryIova(low, high);
    this.#levels = low & GPU_ROOT_LEVELS_3 ? 3 : 2;
    this.limit = this.#levels === 3 ? GPU_VA_LIMIT_3 : GPU_VA_LIMIT;
  }

  find(va: number, perm: number): number {
    for (let level = this.#levels - 1, table = this.#root; ; level--) {
      const status = this.#read(va, level, table);
      if (status !== DMA_OK) return -status;
      const flags = this.#flags;
      const isPage = level === 0 || (level === 1 && (flags & GPU_PTE_2M) !== 0);
      if (isPage) return allowed(flags, perm) ? this.#pageIova(va, level) : this.#refuse();
      if ((flags & GPU_PTE_PRESENT) === 0) return this.#refuse();
      table = this.#iova;
    }
  }

  update(va: number, iova: number, flags: number): number {
    const leaf = flags & GPU_PTE_2M ? 1 : 0;
    let table = this.#root;
    for (let level = this.#levels - 1; level > leaf; level--) {
      const status = this.#read(va, level, table);
      if (status !== DMA_OK) return -status;
      if ((this.#flags & GPU_PTE_PRESENT) === 0 || (level === 1 && (this.#flags & GPU_PTE_2M) !== 0))
        return this.#refuse();
      table = this.#iova;
    }
    this.faultIova = table;
    const entries = new DataView(new ArrayBuffer(flags & GPU_PTE_64K ? 128 : 8));
    for (let at = 0; at < entries.byteLength; at += 8) {
      entries.setUint32(at, flags & GPU_PTE_PRESENT ? ((iova % 2 ** 32) | flags) >>> 0 : 0, true);
      entries.setUint32(at + 4, flags & GPU_PTE_PRESENT ? Math.floor(iova / 2 ** 32) : 0, true);
    }
    const slot = table + indexAt(va, leaf) * 8;
    return -this.#dma.write(slot as Iova, new Uint8Array(entries.buffer));
  }

  #read(va: number, level: number, table: number): DmaStatus {
    this.faultIova = table;
    return this.#dma.read((table + indexAt(va, level) * 8) as Iova, this.#entry);
  }

  /** A large page's IOVA must be aligned to its size. */
  #pageIova(va: number, level: number): number {
    const bytes = level === 1 ? PAGE_2M : this.#flags & GPU_PTE_64K ? GPU_PAGE_64K : PAGE_SIZE;
    if (this.#iova % bytes !== 0) return this.#refuse();
    return pageAddress(this.#flags, this.#iova + (va % bytes));
  }

  #refuse(): number {
    this.faultIova = 0;
    return -DMA_FAULT;
  }

  get #flags(): number {
    return this.#view.getUint32(0, true);
  }

  get #iova(): number {
    return gpuEntryIova(this.#flags, this.#view.getUint32(4, true));
  }
}

const indexAt = (va: number, level: number): number =>
  Math.floor(va / (PAGE_SIZE * GPU_TABLE_ENTRIES ** level)) % GPU_TABLE_ENTRIES;

/** The global table: the guest's writes to BAR 4 are trapped, so its shadow follows each at once. */
export class GlobalTable implements PteSource, BarRegion {
  readonly size: number = GLOBAL_TABLE_BYTES;
  readonly limit: number = GLOBAL_VA_LIMIT;
  readonly faultIova = 0;
  readonly #entries = new DataView(new ArrayBuffer(GLOBAL_TABLE_BYTES));
  readonly #changed: (va: number, bytes: number) => void;

  /** `changed` hears of the addresses whose entries were touched. */
  constructor(changed: (va: number, bytes: number) => void) {
    this.#changed = changed;
  }

  read(offset: number, size: number): bigint {
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.#entries.getUint8(offset + i));
    return value;
  }

  write(offset: number, size: number, value: bigint): void {
    for (let i = 0; i < size; i++)
      this.#entries.setUint8(offset + i, Number((value >> BigInt(8 * i)) & 0xffn));
    const [first, last] = [offset >>> 3, (offset + size - 1) >>> 3];
    this.#changed(first * PAGE_SIZE, (last - first + 1) * PAGE_SIZE);
  }

  find(va: number, perm: number): number {
    const at = (va / PAGE_SIZE) * 8;
    const flags = this.#entries.getUint32(at, true);
    if (!allowed(flags, perm)) return -DMA_FAULT;
    return pageAddress(flags, gpuEntryIova(flags, this.#entries.getUint32(at + 4, true)));
  }

  update(va: number, iova: number, flags: number): number {
    if (gpuPageBytes(flags) !== PAGE_SIZE) return -DMA_FAULT;
    const present = flags & GPU_PTE_PRESENT;
    const at = (va / PAGE_SIZE) * 8;
    this.#entries.setUint32(at, present ? ((iova % 2 ** 32) | flags) >>> 0 : 0, true);
    this.#entries.setUint32(at + 4, present ? Math.floor(iova / 2 ** 32) : 0, true);
    return DMA_OK;
  }

  reset(): void {
    this.load(new Uint8Array(GLOBAL_TABLE_BYTES));
  }

  /** Its bytes now. */
  get bytes(): Uint8Array {
    return new Uint8Array(this.#entries.buffer.slice(0));
  }

  /** Replaces every entry; there are GLOBAL_TABLE_BYTES of them. */
  load(bytes: Uint8Array): void {
    new Uint8Array(this.#entries.buffer).set(bytes);
    this.#changed(0, GLOBAL_VA_LIMIT);
  }
}
