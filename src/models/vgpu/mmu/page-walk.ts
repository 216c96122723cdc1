/**
 * Translation of a GPU virtual page to its location: a walk over the guest's GPU page tables, or a lookup in the global
 * table of BAR 4.
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

/** The DMA status of a translation that failed. */
export type Refusal = Exclude<DmaStatus, typeof DMA_OK>;

/** Location of a 4 KiB page of a GPU address space. */
type PageLocation =
  | { readonly memory: 'ram'; readonly iova: Iova }
  | { readonly memory: 'vram'; readonly offset: number };

/** The page table entries behind a shadow page table. */
export interface PteSource {
  /** First address that cannot be translated. */
  readonly limit: number;
  /** IOVA at which the last `find` or `update` was refused; 0 if a page table entry refused it. */
  readonly faultIova: number;
  /** Returns the location of the 4 KiB page at `va`, a multiple of 4 KiB, if its entry allows `perm`. */
  find(va: number, perm: number): PageLocation | Refusal;
  /** Writes the entry of the page at `va`: sixteen entries for a page of 64 KiB. `flags` has the page size. */
  update(va: number, iova: number, flags: number): DmaStatus;
}

const allowed = (flags: number, perm: number): boolean =>
  (flags & GPU_PTE_PRESENT) !== 0 && ((perm & PERM_WRITE) === 0 || (flags & GPU_PTE_WRITABLE) !== 0);

/** Returns the location that an entry with these flags and this address means. */
const locationOf = (flags: number, address: number): PageLocation =>
  flags & GPU_PTE_VRAM ? { memory: 'vram', offset: address } : { memory: 'ram', iova: address as Iova };

/** Tables of two or three levels in guest memory. Nothing is cached between two walks. */
export class TableWalk implements PteSource {
  faultIova = 0;
  readonly limit: number;
  readonly #levels: number;
  readonly #root: number;
  readonly #dma: DeviceDma;
  readonly #entry = new Uint8Array(8);
  readonly #view = new DataView(this.#entry.buffer);

  /** `low` and `high` are the halves of the root pointer. */
  constructor(dma: DeviceDma, low: number, high: number) {
    this.#dma = dma;
    this.#root = gpuEntryIova(low, high);
    this.#levels = low & GPU_ROOT_LEVELS_3 ? 3 : 2;
    this.limit = this.#levels === 3 ? GPU_VA_LIMIT_3 : GPU_VA_LIMIT;
  }

  find(va: number, perm: number): PageLocation | Refusal {
    for (let level = this.#levels - 1, table = this.#root; ; level--) {
      const status = this.#read(va, level, table);
      if (status !== DMA_OK) return status;
      const flags = this.#flags;
      const isPage = level === 0 || (level === 1 && (flags & GPU_PTE_2M) !== 0);
      if (isPage) return allowed(flags, perm) ? this.#location(va, level) : this.#refuse();
      if ((flags & GPU_PTE_PRESENT) === 0) return this.#refuse();
      table = this.#iova;
    }
  }

  update(va: number, iova: number, flags: number): DmaStatus {
    const leaf = flags & GPU_PTE_2M ? 1 : 0;
    let table = this.#root;
    for (let level = this.#levels - 1; level > leaf; level--) {
      const status = this.#read(va, level, table);
      if (status !== DMA_OK) return status;
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
    return this.#dma.write(slot as Iova, new Uint8Array(entries.buffer));
  }

  #read(va: number, level: number, table: number): DmaStatus {
    this.faultIova = table;
    return this.#dma.read((table + indexAt(va, level) * 8) as Iova, this.#entry);
  }

  /** A large page's IOVA must be aligned to its size. */
  #location(va: number, level: number): PageLocation | Refusal {
    const bytes = level === 1 ? PAGE_2M : this.#flags & GPU_PTE_64K ? GPU_PAGE_64K : PAGE_SIZE;
    if (this.#iova % bytes !== 0) return this.#refuse();
    return locationOf(this.#flags, this.#iova + (va % bytes));
  }

  #refuse(): Refusal {
    this.faultIova = 0;
    return DMA_FAULT;
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

/** The global table. The guest's writes to BAR 4 are trapped, so each of them updates the shadow at once. */
export class GlobalTable implements PteSource, BarRegion {
  readonly size: number = GLOBAL_TABLE_BYTES;
  readonly limit: number = GLOBAL_VA_LIMIT;
  readonly faultIova = 0;
  readonly #entries = new DataView(new ArrayBuffer(GLOBAL_TABLE_BYTES));
  readonly #changed: (va: number, bytes: number) => void;

  /** `changed` is called with the addresses whose entries were written. */
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

  find(va: number, perm: number): PageLocation | Refusal {
    const at = (va / PAGE_SIZE) * 8;
    const flags = this.#entries.getUint32(at, true);
    if (!allowed(flags, perm)) return DMA_FAULT;
    return locationOf(flags, gpuEntryIova(flags, this.#entries.getUint32(at + 4, true)));
  }

  update(va: number, iova: number, flags: number): DmaStatus {
    if (gpuPageBytes(flags) !== PAGE_SIZE) return DMA_FAULT;
    const present = flags & GPU_PTE_PRESENT;
    const at = (va / PAGE_SIZE) * 8;
    this.#entries.setUint32(at, present ? ((iova % 2 ** 32) | flags) >>> 0 : 0, true);
    this.#entries.setUint32(at + 4, present ? Math.floor(iova / 2 ** 32) : 0, true);
    return DMA_OK;
  }

  reset(): void {
    this.load(new Uint8Array(GLOBAL_TABLE_BYTES));
  }

  /** A copy of its bytes. */
  get bytes(): Uint8Array {
    return new Uint8Array(this.#entries.buffer.slice(0));
  }

  /** Replaces every entry. `bytes` has GLOBAL_TABLE_BYTES bytes. */
  load(bytes: Uint8Array): void {
    new Uint8Array(this.#entries.buffer).set(bytes);
    this.#changed(0, GLOBAL_VA_LIMIT);
  }
}
