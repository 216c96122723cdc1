/**
 * The GPU address spaces of one vGPU: that of PageTableBase, one per context of the context table, and the global one;
 * each with its shadow.
 */

import {
  CONTEXT_ROOT_BYTES,
  CONTEXTS_LIMIT,
  GLOBAL_CONTEXT,
  GLOBAL_VA_LIMIT,
  GPU_ROOT_LEVELS_3,
  GPU_ROOT_PRESENT,
  GPU_VA_LIMIT,
  GPU_VA_LIMIT_3,
} from '../../../abi/vgpu/memory.ts';
import { type DeviceDma, DMA_FAULT, DMA_OK } from '../../../device/dma.ts';
import type { Iova } from '../../../memory/address.ts';
import { GlobalTable, type PteSource, TableWalk } from './page-walk.ts';
import { type GpuFault, SHADOW_LIMIT, type ShadowPageTable } from './shadow-page-table.ts';

export class GpuAddressSpaces {
  /** What is behind BAR 4. */
  readonly global: GlobalTable;
  readonly #dma: DeviceDma;
  readonly #makeShadow: (source: PteSource) => ShadowPageTable;
  readonly #globalShadow: ShadowPageTable;
  /** Shadows by context, built on use. */
  readonly #shadows = new Map<number, ShadowPageTable>();
  readonly #root = new DataView(new ArrayBuffer(CONTEXT_ROOT_BYTES));
  #base = 0n;
  #table = 0 as Iova;
  #count = 1;
  lastFault: GpuFault = { va: 0, iova: 0 };

  constructor(dma: DeviceDma, makeShadow: (source: PteSource) => ShadowPageTable) {
    this.#dma = dma;
    this.#makeShadow = makeShadow;
    this.global = new GlobalTable((va, bytes) => this.#globalShadow.dropVa(va, bytes));
    this.#globalShadow = makeShadow(this.global);
  }

  /** Context 0's root pointer. What was shadowed from the old one goes. */
  setRoot(pointer: bigint): void {
    this.#base = pointer;
    this.#forget(0);
  }

  /** Where the other contexts' root pointers are, and how many contexts there are with context 0. */
  setContexts(table: Iova, count: number): void {
    this.#table = table;
    this.#count = Math.min(count, CONTEXTS_LIMIT);
    this.invalidate();
  }

  /** The guest's TLB invalidation: everything that was read from guest memory is read anew. */
  invalidate(): void {
    for (const context of [...this.#shadows.keys()]) this.#forget(context);
  }

  dropIova(iova: Iova, size: number): void {
    for (const shadow of this.#shadows.values()) shadow.dropIova(iova, size);
    this.#globalShadow.dropIova(iova, size);
  }

  /** Drops every pin. */
  dropAll(): void {
    this.invalidate();
    this.#globalShadow.dropAll();
  }

  reset(): void {
    this.#base = 0n;
    this.#count = 1;
    this.dropAll();
    this.global.reset();
  }

  /** Makes room for a step that needs up to `pages` translations: they must not evict each other. */
  reserve(pages: number): void {
    let held = this.#globalShadow.size;
    for (const shadow of this.#shadows.values()) held += shadow.size;
    if (held + pages > SHADOW_LIMIT) this.dropAll();
  }

  /** First address that the context can possibly have; 0 if there is no such context. */
  limit(context: number): number {
    if (context === GLOBAL_CONTEXT) return GLOBAL_VA_LIMIT;
    if (context === 0) return Number(this.#base) & GPU_ROOT_LEVELS_3 ? GPU_VA_LIMIT_3 : GPU_VA_LIMIT;
    return context < this.#count ? GPU_VA_LIMIT_3 : 0;
  }

  /** Host PFN of the page at `va`, pinned; or minus a DMA status, with `lastFault` set on a fault. */
  translate(context: number, va: number, perm: number): number {
    const shadow = this.#of(context, va);
    if (typeof shadow === 'number') return shadow;
    const pfn = shadow.translate(va, perm);
    if (pfn < 0) this.lastFault = shadow.lastFault;
    return pfn;
  }

  /** The shadow of a context of which an address has just been translated. */
  shadowOf(context: number): ShadowPageTable | undefined {
    return context === GLOBAL_CONTEXT ? this.#globalShadow : this.#shadows.get(context);
  }

  /** IOVA behind an address that has just been translated. */
  iovaOf(context: number, va: number): Iova {
    const iova = this.shadowOf(context)?.iovaOf(va);
    if (iova === undefined) throw new Error(`GPU address ${va} of context ${context} is not shadowed`);
    return iova;
  }

  /** Writes the page table entry of the page at `va`; minus a DMA status if refused. */
  update(context: number, va: number, iova: number, flags: number, bytes: number): number {
    const shadow = this.#of(context, va);
    if (typeof shadow === 'number') return shadow;
    const status = shadow.update(va, iova, flags, bytes);
    if (status < 0) this.lastFault = shadow.lastFault;
    return status;
  }

  #of(context: number, va: number): ShadowPageTable | number {
    if (context === GLOBAL_CONTEXT) return this.#globalShadow;
    const known = this.#shadows.get(context);
    if (known) return known;
    const status = this.#readRoot(context, va);
    if (status !== DMA_OK) return status;
    const walk = new TableWalk(this.#dma, this.#root.getUint32(0, true), this.#root.getUint32(4, true));
    const shadow = this.#makeShadow(walk);
    this.#shadows.set(context, shadow);
    return shadow;
  }

  /** Reads a context's root pointer. Minus a DMA status if it cannot be reached or says that there is no context. */
  #readRoot(context: number, va: number): number {
    if (context === 0) {
      this.#root.setBigUint64(0, this.#base, true);
      return DMA_OK;
    }
    const at = (this.#table + context * CONTEXT_ROOT_BYTES) as Iova;
    const status = this.#dma.read(at, new Uint8Array(this.#root.buffer));
    const absent = status === DMA_OK && (this.#root.getUint32(0, true) & GPU_ROOT_PRESENT) === 0;
    if (status === DMA_OK && !absent) return DMA_OK;
    this.lastFault = { va, iova: absent ? 0 : at };
    return absent ? -DMA_FAULT : -status;
  }

  #forget(context: number): void {
    this.#shadows.get(context)?.dropAll();
    this.#shadows.delete(context);
  }
}
