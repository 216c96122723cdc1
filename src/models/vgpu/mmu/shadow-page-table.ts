/**
 * The shadow page table of one GPU address space: GPU virtual page → pinned host page, or page of VRAM.
 *
 * Entries are built on first use. They are dropped on the guest's TLB invalidation, on a page table update and on
 * `dmaUnmap`. A page of guest memory is pinned while its entry exists.
 *
 * An entry covers 4 KiB, also inside a larger GPU page: the host pages behind that may be scattered, and a pin covers one
 * page. A page of VRAM needs no pin, because VRAM belongs to the device and is never unmapped. A page in a BAR of another
 * device cannot be pinned; its entry holds only the IOVA, which every access translates anew.
 */

import { type DeviceDma, DMA_FAULT, DMA_OK, DMA_RETRY, type DmaStatus } from '../../../device/dma.ts';
import { type Iova, PAGE_SIZE, PERM_READ } from '../../../memory/address.ts';
import type { PteSource, Refusal } from './page-walk.ts';
import { type PeerEntry, type RamEntry, ShadowEntries, type ShadowEntry } from './shadow-entries.ts';

/** Most shadow entries, and so pins, of one vGPU: 256 MiB of memory. */
export const SHADOW_LIMIT = 65536;

/** A refused translation, for the guest's fault registers. */
export interface GpuFault {
  readonly va: number;
  /** IOVA that could not be reached; 0 if a page table entry refused the access. */
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
  /** Count of translations without an entry. */
  fills = 0;

  /** `vramBytes` is the size of the device's VRAM. */
  constructor(dma: DeviceDma, source: PteSource, vramBytes = 0) {
    this.dma = dma;
    this.source = source;
    this.#vramBytes = vramBytes;
  }

  /** Count of entries. */
  get size(): number {
    return this.entries.size;
  }

  /**
   * Returns the entry of the page at `va`, pinned for `perm`. Sets `lastFault` if the translation is refused. A hit
   * allocates nothing, since the copy engine translates two addresses per page.
   */
  translate(va: number, perm: number): ShadowEntry | Refusal {
    const page = Math.floor(va / PAGE_SIZE);
    const hit = this.entries.get(page);
    if (hit && (hit.perm & perm) === perm) return hit;
    if (hit) this.drop(hit);
    this.fills++;
    return this.#fill(page, perm);
  }

  /** Returns the entry of the page at `va` if it is already shadowed for `perm`. Reads no page table. */
  peek(va: number, perm: number): ShadowEntry | undefined {
    const entry = this.entries.get(Math.floor(va / PAGE_SIZE));
    return entry && (entry.perm & perm) === perm ? entry : undefined;
  }

  /** Writes the page table entry of the page of `bytes` bytes at `va`, and drops its shadow entries. */
  update(va: number, iova: number, flags: number, bytes: number): DmaStatus {
    const status = this.source.update(va, iova, flags);
    if (status !== DMA_OK) this.lastFault = { va, iova: this.source.faultIova };
    this.dropVa(va, bytes);
    return status;
  }

  dropAll(): void {
    for (const entry of this.entries.values()) this.drop(entry);
  }

  /** Drops every entry whose GPU virtual address lies in the range. Both bounds are multiples of 4 KiB. */
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
    if (entry.memory === 'ram') this.dma.unpin(entry.iova);
  }

  protected forget(entry: ShadowEntry): void {
    this.entries.delete(entry.va);
    if (entry.memory === 'vram') return;
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

  #fill(page: number, perm: number): ShadowEntry | Refusal {
    const va = page * PAGE_SIZE;
    if (va >= this.source.limit) return this.#refuse(DMA_FAULT, va, 0);
    const found = this.source.find(va, perm);
    if (typeof found === 'number') return this.#refuse(found, va, this.source.faultIova);
    return found.memory === 'ram'
      ? this.#pin(page, found.iova, perm)
      : this.#enterVram(page, found.offset, perm);
  }

  #enterVram(page: number, offset: number, perm: number): ShadowEntry | Refusal {
    if (offset + PAGE_SIZE > this.#vramBytes) return this.#refuse(DMA_FAULT, page * PAGE_SIZE, 0);
    const entry: ShadowEntry = { memory: 'vram', va: page, perm: perm | PERM_READ, offset };
    this.entries.set(page, entry);
    return entry;
  }

  #pin(page: number, iova: Iova, perm: number): ShadowEntry | Refusal {
    if (this.dma.isPeer(iova)) return this.#enter({ memory: 'peer', va: page, perm: perm | PERM_READ, iova });
    const pfn = this.dma.pin(iova, perm | PERM_READ);
    if (pfn < 0) return this.#refuse(pfn === -DMA_RETRY ? DMA_RETRY : DMA_FAULT, page * PAGE_SIZE, iova);
    return this.#enter({ memory: 'ram', va: page, perm: perm | PERM_READ, iova, pfn });
  }

  #enter(entry: RamEntry | PeerEntry): ShadowEntry {
    const { va: page, iova } = entry;
    this.entries.set(page, entry);
    const iovaPage = iova / PAGE_SIZE;
    const shadows = this.byIova.get(iovaPage);
    if (shadows) shadows.add(page);
    else this.byIova.set(iovaPage, new Set([page]));
    return entry;
  }

  #refuse(status: Refusal, va: number, iova: number): Refusal {
    this.lastFault = { va, iova };
    return status;
  }
}
