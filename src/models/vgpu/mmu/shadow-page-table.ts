/**
 * The shadow of one GPU address space: GPU virtual page → pinned host page, or page of VRAM.
 *
 * Entries are built on use and dropped on the guest's TLB invalidation, on a page table update and on `dmaUnmap`; while an
 * entry is here, its page is pinned. An entry stands for 4 KiB, also inside a larger GPU page: the host's pages behind
 * that need not lie together, and a pin is one page's. A page
 * of VRAM has no pin: it is the device's own, and nobody unmaps it.
 */

import { type DeviceDma, DMA_FAULT } from '../../../device/dma.ts';
import { type Iova, PAGE_SIZE, PERM_READ } from '../../../memory/address.ts';
import type { PteSource } from './page-walk.ts';
import { ShadowEntries, type ShadowEntry } from './shadow-entries.ts';
import { VRAM_ADDRESS, VRAM_PFN } from './vram.ts';

/** Shadow entries, and with them pins, that one vGPU holds at most: 256 MiB of memory. */
export const SHADOW_LIMIT = 65536;

/** Why a GPU virtual address did not translate, for the guest's fault registers. */
export interface GpuFault {
  readonly va: number;
  /** IOVA involved, or 0 if the GPU page table itself says no. */
  readonly iova: number;
}

export class ShadowPageTable {
  protected readonly entries = new ShadowEntries();
  /** IOVA page → GPU virtual pages that shadow it. */
  protected readonly byIova = new Map<number, Set<number>>();
  protected readonly dma: DeviceDma;
  readonly source: PteSource;
  readonly #vramBytes: number;
  lastFault: GpuFault = { va: 0, iova: 0 };

  /** `vramBytes`: VRAM that the device has. */
  constructor(dma: DeviceDma, source: PteSource, vramBytes = 0) {
    this.dma = dma;
    this.source = source;
    this.#vramBytes = vramBytes;
  }

  /** Entries held now. */
  get size(): number {
    return this.entries.size;
  }

  /** Host PFN of the page at `va`, pinned for `perm`; or minus a DMA status, with `lastFault` set on a fault. */
  translate(va: number, perm: number): number {
    const page = Math.floor(va / PAGE_SIZE);
    const hit = this.entries.get(page);
    if (hit && (hit.perm & perm) === perm) return hit.pfn;
    if (hit) this.drop(hit);
    return this.#fill(page, perm);
  }

  /** Host PFN of the page at `va` if it is shadowed for `perm` already, or -1. Nothing is looked up, nothing recorded. */
  peek(va: number, perm: number): number {
    const entry = this.entries.get(Math.floor(va / PAGE_SIZE));
    return entry && (entry.perm & perm) === perm ? entry.pfn : -1;
  }

  /** IOVA behind `va`, if its page is shadowed now. */
  iovaOf(va: number): Iova | undefined {
    const entry = this.entries.get(Math.floor(va / PAGE_SIZE));
    return entry && ((entry.iova + (va % PAGE_SIZE)) as Iova);
  }

  /** Has the entry of the page at `va` written, and forgets what was shadowed there. Minus a DMA status if refused. */
  update(va: number, iova: number, flags: number, bytes: number): number {
    const status = this.source.update(va, iova, flags);
    if (status < 0) this.lastFault = { va, iova: this.source.faultIova };
    this.dropVa(va, bytes);
    return status;
  }

  dropAll(): void {
    for (const entry of this.entries.values()) this.drop(entry);
  }

  /** Drops every entry whose GPU virtual address lies in the range; both are multiples of 4 KiB. */
  dropVa(va: number, size: number): void {
    const [first, end] = [va / PAGE_SIZE, (va + size) / PAGE_SIZE];
    if (end - first > this.entries.size) {
      for (const entry of this.entries.values()) if (entry.va >= first && entry.va < end) this.drop(entry);
      return;
    }
    for (let page = first; page < end; page++) {
      const entry = this.entries.get(page);
      if (entry) this.drop(entry);
    }
  }

  /** Drops every entry whose IOVA lies in the range. */
  dropIova(iova: Iova, size: number): void {
    const [first, last] = [iova / PAGE_SIZE, (iova + size) / PAGE_SIZE - 1];
    if (size / PAGE_SIZE > this.byIova.size) {
      for (const page of [...this.byIova.keys()]) if (page >= first && page <= last) this.#dropIovaPage(page);
    } else for (let page = first; page <= last; page++) this.#dropIovaPage(page);
  }

  protected drop(entry: ShadowEntry): void {
    this.forget(entry);
    if (entry.pfn < VRAM_PFN) this.dma.unpin(entry.iova);
  }

  protected forget(entry: ShadowEntry): void {
    this.entries.delete(entry.va);
    const shadows = this.byIova.get(entry.iova / PAGE_SIZE);
    shadows?.delete(entry.va);
    if (shadows?.size === 0) this.byIova.delete(entry.iova / PAGE_SIZE);
  }

  #dropIovaPage(page: number): void {
    for (const va of [...(this.byIova.get(page) ?? [])]) {
      const entry = this.entries.get(va);
      if (entry) this.drop(entry);
    }
  }

  #fill(page: number, perm: number): number {
    const va = page * PAGE_SIZE;
    if (va >= this.source.limit) return this.#refuse(-DMA_FAULT, va, 0);
    const iova = this.source.find(va, perm);
    if (iova < 0) return this.#refuse(iova, va, this.source.faultIova);
    return iova < VRAM_ADDRESS
      ? this.#pin(page, iova as Iova, perm)
      : this.#enterVram(page, iova as Iova, perm);
  }

  #enterVram(page: number, iova: Iova, perm: number): number {
    const offset = iova - VRAM_ADDRESS;
    if (offset + PAGE_SIZE > this.#vramBytes) return this.#refuse(-DMA_FAULT, page * PAGE_SIZE, 0);
    const pfn = VRAM_PFN + offset / PAGE_SIZE;
    this.entries.set(page, { va: page, iova, pfn, perm: perm | PERM_READ });
    return pfn;
  }

  #pin(page: number, iova: Iova, perm: number): number {
    const pfn = this.dma.pin(iova, perm | PERM_READ);
    if (pfn < 0) return this.#refuse(pfn, page * PAGE_SIZE, iova);
    this.entries.set(page, { va: page, iova, pfn, perm: perm | PERM_READ });
    const iovaPage = iova / PAGE_SIZE;
    const shadows = this.byIova.get(iovaPage);
    if (shadows) shadows.add(page);
    else this.byIova.set(iovaPage, new Set([page]));
    return pfn;
  }

  #refuse(negative: number, va: number, iova: number): number {
    this.lastFault = { va, iova };
    return negative;
  }
}
