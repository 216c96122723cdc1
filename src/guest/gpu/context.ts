/**
 * GPU context: a GPU address space with page tables of three levels, which its guest driver writes.
 */

import * as gpu from '../../abi/vgpu/memory.ts';
import { type Gpa, hex, type Iova, PAGE_2M, PAGE_SIZE } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { SavedContext } from './saved-state.ts';

/** Count of 2 MiB regions that a context's tables cover. */
const REGIONS = 4;
const GIB = 2 ** 30;

/** Options of a mapping in a GPU page table. */
export interface GpuMapping {
  /** Size of the GPU pages in bytes: 4 KiB (the default), 64 KiB or 2 MiB. */
  readonly pageBytes?: number;
  /** Default true. */
  readonly writable?: boolean;
  /** The address is an offset in the device's VRAM instead of an IOVA. */
  readonly vram?: boolean;
}

/** Returns the flags of a present entry. @throws RangeError for an invalid page size */
export function entryFlags({ pageBytes = PAGE_SIZE, writable = true, vram = false }: GpuMapping): number {
  const size = [
    { bytes: PAGE_SIZE, flag: 0 },
    { bytes: gpu.GPU_PAGE_64K, flag: gpu.GPU_PTE_64K },
    { bytes: PAGE_2M, flag: gpu.GPU_PTE_2M },
  ].find(({ bytes }) => bytes === pageBytes);
  if (!size) throw new RangeError(`GPU pages of ${pageBytes} bytes; accepted: 4096, 65536, 2097152`);
  const place = vram ? gpu.GPU_PTE_VRAM : 0;
  return gpu.GPU_PTE_PRESENT | (writable ? gpu.GPU_PTE_WRITABLE : 0) | place | size.flag;
}

/** Writes an entry, the half with the present bit last: the device may walk the table meanwhile. */
export function writeEntry(ram: GuestRam, gpa: number, iova: number, flags: number): void {
  ram.write32(gpa + 4, Math.floor(iova / 2 ** 32));
  ram.write32(gpa, ((iova % 2 ** 32) | flags) >>> 0);
}

/** A GPU address space of 8 MiB at a multiple of 1 GiB. */
export class GpuContext {
  /** ID in commands, from 1. */
  readonly id: number;
  /** First GPU virtual address that its tables cover, a multiple of 1 GiB, and the first address behind. */
  readonly base: number;
  readonly end: number;
  /** Pages of its tables; they must be mapped for the device at IOVA = GPA. */
  readonly tablePages: readonly Gpa[];
  readonly #ram: GuestRam;
  readonly #directory: Gpa;
  readonly #tables: readonly Gpa[];

  /** @param tablePages root, directory and tables in guest RAM */
  private constructor(id: number, base: number, tablePages: readonly Gpa[], ram: GuestRam) {
    this.id = id;
    this.base = base;
    this.end = base + REGIONS * PAGE_2M;
    this.#ram = ram;
    this.tablePages = tablePages;
    this.#directory = tablePages[1] as Gpa;
    this.#tables = tablePages.slice(2);
  }

  /** Builds the tables and writes the root pointer to GPA `slot`. @throws RangeError */
  static create(id: number, base: number, slot: number, ram: GuestRam, pages: PageAllocator): GpuContext {
    if (base % GIB !== 0 || base < 0 || base >= gpu.GPU_VA_LIMIT_3)
      throw new RangeError(
        `context at ${hex(base)}; accepted: multiples of 1 GiB below ${hex(gpu.GPU_VA_LIMIT_3)}`,
      );
    const [root, directory, ...tables] = Array.from({ length: 2 + REGIONS }, () => pages.allocate() as Gpa);
    tables.forEach((table, region) => {
      writeEntry(ram, (directory as Gpa) + region * 8, table, gpu.GPU_PTE_PRESENT);
    });
    writeEntry(ram, (root as Gpa) + (base / GIB) * 8, directory as Gpa, gpu.GPU_PTE_PRESENT);
    writeEntry(ram, slot, root as Gpa, gpu.GPU_ROOT_PRESENT | gpu.GPU_ROOT_LEVELS_3);
    return new GpuContext(id, base, [root as Gpa, directory as Gpa, ...tables], ram);
  }

  /** Restores a context whose tables are in guest RAM already. @throws RangeError for another count of pages */
  static restore(id: number, { base, tablePages }: SavedContext, ram: GuestRam): GpuContext {
    if (tablePages.length !== 2 + REGIONS)
      throw new RangeError(`context ${id} of ${tablePages.length} pages; accepted: ${2 + REGIONS}`);
    return new GpuContext(id, base, tablePages, ram);
  }

  save(): SavedContext {
    return { base: this.base, tablePages: this.tablePages };
  }

  /**
   * Maps `bytes` at GPU address `va` to consecutive IOVAs, or offsets in VRAM; all three are multiples of the page
   * size. The caller must then invalidate the device's shadow (GpuDriver.invalidate).
   * @throws RangeError
   */
  write(va: number, iova: Iova | number, bytes: number, mapping: GpuMapping = {}): void {
    const page = mapping.pageBytes ?? PAGE_SIZE;
    const flags = entryFlags(mapping);
    if (va % page !== 0 || iova % page !== 0 || bytes % page !== 0)
      throw new RangeError(`${hex(va)} to IOVA ${hex(iova)} +${bytes}: not multiples of ${page}`);
    this.#checkRange(va, bytes);
    for (let at = 0; at < bytes; at += page)
      if (page === PAGE_2M) writeEntry(this.#ram, this.#regionSlot(va + at), iova + at, flags);
      else for (let i = 0; i < page; i += PAGE_SIZE) this.#writePage(va + at + i, iova + at, flags);
  }

  /** Unmaps `bytes` at GPU address `va`; a 2 MiB page becomes a table of absent entries. @throws RangeError */
  clear(va: number, bytes: number): void {
    this.#checkRange(va, bytes);
    for (let at = 0; at < bytes; at += PAGE_SIZE) this.#writePage(va + at, 0, 0);
  }

  #writePage(va: number, iova: number, flags: number): void {
    const region = Math.floor((va - this.base) / PAGE_2M);
    const table = this.#tables[region] as Gpa;
    writeEntry(this.#ram, this.#regionSlot(va), table, gpu.GPU_PTE_PRESENT);
    writeEntry(this.#ram, table + (Math.floor(va / PAGE_SIZE) % gpu.GPU_TABLE_ENTRIES) * 8, iova, flags);
  }

  #regionSlot(va: number): number {
    return this.#directory + Math.floor((va - this.base) / PAGE_2M) * 8;
  }

  #checkRange(va: number, bytes: number): void {
    if (va < this.base || va + bytes > this.end)
      throw new RangeError(
        `GPU address ${hex(va)} +${bytes} in context ${this.id}; accepted: ${hex(this.base)} to ${hex(this.end - 1)}`,
      );
  }
}
