/**
 * The shadow of the guest's GPU page tables: GPU virtual page → pinned host page.
 *
 * Entries are built on use and dropped on the guest's TLB invalidation and on `dmaUnmap`; while an entry is here,
 * its page is pinned.
 */
import { type Iova, PAGE_SIZE, PERM_READ, PERM_WRITE } from '../../../src/address/address.ts';
import { type DeviceDma, DMA_FAULT, DMA_OK, type DmaStatus } from '../../../src/device/dma.ts';
import { GPU_PTE_PRESENT, GPU_PTE_WRITABLE, GPU_VA_LIMIT } from '../../../src/pci/vgpu-interface.ts';

/** Shadow entries, and with them pins, that one vGPU holds at most: 256 MiB of memory. */
export const SHADOW_LIMIT = 65536;

export interface ShadowEntry {
  readonly va: number;
  readonly iova: Iova;
  readonly pfn: number;
  readonly perm: number;
}

/** Why a GPU virtual address did not translate, for the guest's fault registers. */
export interface GpuFault {
  readonly va: number;
  /** IOVA involved, or 0 if the GPU page table itself says no. */
  readonly iova: number;
}

export class ShadowPageTable {
  protected readonly entries = new Map<number, ShadowEntry>();
  /** IOVA page → GPU virtual pages that shadow it. */
  protected readonly byIova = new Map<number, Set<number>>();
  protected readonly dma: DeviceDma;
  readonly #pte = new Uint8Array(8);
  readonly #pteView = new DataView(this.#pte.buffer);
  #root = 0 as Iova;
  lastFault: GpuFault = { va: 0, iova: 0 };

  constructor(dma: DeviceDma) {
    this.dma = dma;
  }

  /** Sets the IOVA of the guest's top GPU page table. Everything shadowed from the old one goes. */
  setRoot(root: Iova): void {
    this.#root = root;
    this.dropAll();
  }

  /** Makes room for a step that needs up to `pages` translations: they must not evict each other. */
  reserve(pages: number): void {
    if (this.entries.size + pages > SHADOW_LIMIT) this.dropAll();
  }

  /** Host PFN of the page at `va`, pinned for `perm`; or minus a DMA status, with `lastFault` set on a fault. */
  translate(va: number, perm: number): number {
    const page = Math.floor(va / PAGE_SIZE);
    const hit = this.entries.get(page);
    if (hit && (hit.perm & perm) === perm) return hit.pfn;
    if (hit) this.drop(hit);
    return this.#fill(page, perm);
  }

  dropAll(): void {
    for (const entry of [...this.entries.values()]) this.drop(entry);
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
    this.dma.unpin(entry.iova);
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
    if (va >= GPU_VA_LIMIT) return this.#fault(va, 0);
    let status = this.#readEntry(this.#root, page >>> 9);
    if (status !== DMA_OK) return this.#refuse(status, va, this.#root);
    if ((this.#flags() & GPU_PTE_PRESENT) === 0) return this.#fault(va, 0);
    const table = this.#address();
    status = this.#readEntry(table, page & 511);
    if (status !== DMA_OK) return this.#refuse(status, va, table);
    const flags = this.#flags();
    if ((flags & GPU_PTE_PRESENT) === 0) return this.#fault(va, 0);
    if ((perm & PERM_WRITE) !== 0 && (flags & GPU_PTE_WRITABLE) === 0) return this.#fault(va, 0);
    return this.#pin(page, this.#address(), perm);
  }

  #pin(page: number, iova: Iova, perm: number): number {
    const pfn = this.dma.pin(iova, perm | PERM_READ);
    if (pfn < 0) return this.#refuse(-pfn as DmaStatus, page * PAGE_SIZE, iova);
    this.entries.set(page, { va: page, iova, pfn, perm: perm | PERM_READ });
    const iovaPage = iova / PAGE_SIZE;
    const shadows = this.byIova.get(iovaPage);
    if (shadows) shadows.add(page);
    else this.byIova.set(iovaPage, new Set([page]));
    return pfn;
  }

  #readEntry(table: Iova, index: number): DmaStatus {
    return this.dma.read((table + index * 8) as Iova, this.#pte);
  }

  #flags(): number {
    return this.#pteView.getUint32(0, true);
  }

  #address(): Iova {
    const high = this.#pteView.getUint32(4, true) & 0xffff;
    return (high * 2 ** 32 + ((this.#flags() & 0xffff_f000) >>> 0)) as Iova;
  }

  #refuse(status: DmaStatus, va: number, iova: Iova): number {
    this.lastFault = { va, iova };
    return -status;
  }

  #fault(va: number, iova: number): number {
    this.lastFault = { va, iova };
    return -DMA_FAULT;
  }
}
