/**
 * The GPU address spaces of one vGPU, each with its shadow page table: context 0 of PageTableBase, one per entry of the
 * context table, and the global one.
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
import { type DeviceDma, DMA_FAULT, DMA_OK, type DmaStatus } from '../../../device/dma.ts';
import type { Iova } from '../../../memory/address.ts';
import { GlobalTable, type PteSource, type Refusal, TableWalk } from './page-walk.ts';
import type { ShadowEntry } from './shadow-entries.ts';
import { type GpuFault, SHADOW_LIMIT, type ShadowPageTable } from './shadow-page-table.ts';

export class GpuAddressSpaces {
  /** The region behind BAR 4. */
  readonly global: GlobalTable;
  readonly #dma: DeviceDma;
  readonly #makeShadow: (source: PteSource) => ShadowPageTable;
  readonly #globalShadow: ShadowPageTable;
  /** Shadow page tables by context, built on first use. */
  readonly #shadows = new Map<number, ShadowPageTable>();
  readonly #root = new DataView(new ArrayBuffer(CONTEXT_ROOT_BYTES));
  #base = 0n;
  #table = 0 as Iova;
  #count = 1;
  lastFault: GpuFault = { va: 0, iova: 0 };
  /** Accesses to pages with a shadow entry, and to those without. */
  readonly translations = { hits: 0, misses: 0 };

  constructor(dma: DeviceDma, makeShadow: (source: PteSource) => ShadowPageTable) {
    this.#dma = dma;
    this.#makeShadow = makeShadow;
    this.global = new GlobalTable((va, bytes) => this.#globalShadow.dropVa(va, bytes));
    this.#globalShadow = makeShadow(this.global);
  }

  /** Sets context 0's root pointer and drops its shadow. */
  setRoot(pointer: bigint): void {
    this.#base = pointer;
    this.#forget(0);
  }

  /** Sets the address of the context table, and the count of contexts, context 0 included. Drops all shadows. */
  setContexts(table: Iova, count: number): void {
    this.#table = table;
    this.#count = Math.min(count, CONTEXTS_LIMIT);
    this.invalidate();
  }

  /** Drops everything that was read from guest memory: the guest's TLB invalidation. */
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

  /** Makes room for a step of at most `pages` translations, so that they do not evict each other. */
  reserve(pages: number): void {
    let held = this.#globalShadow.size;
    for (const shadow of this.#shadows.values()) held += shadow.size;
    if (held + pages > SHADOW_LIMIT) this.dropAll();
  }

  /** Returns the first address beyond the context's; 0 if there is no such context. */
  limit(context: number): number {
    if (context === GLOBAL_CONTEXT) return GLOBAL_VA_LIMIT;
    if (context === 0) return Number(this.#base) & GPU_ROOT_LEVELS_3 ? GPU_VA_LIMIT_3 : GPU_VA_LIMIT;
    return context < this.#count ? GPU_VA_LIMIT_3 : 0;
  }

  /** Returns the shadow entry of the page at `va`, pinned for `perm`. Sets `lastFault` if the translation is refused. */
  translate(context: number, va: number, perm: number): ShadowEntry | Refusal {
    const shadow = this.#of(context, va);
    if (typeof shadow === 'number') return shadow;
    const { fills } = shadow;
    const page = shadow.translate(va, perm);
    if (shadow.fills === fills) this.translations.hits++;
    else this.translations.misses++;
    if (typeof page === 'number') this.lastFault = shadow.lastFault;
    return page;
  }

  /** Returns the shadow of a context, if an address of it has been translated. */
  shadowOf(context: number): ShadowPageTable | undefined {
    return context === GLOBAL_CONTEXT ? this.#globalShadow : this.#shadows.get(context);
  }

  /** Writes the page table entry of the page of `bytes` bytes at `va`. Sets `lastFault` if refused. */
  update(context: number, va: number, iova: number, flags: number, bytes: number): DmaStatus {
    const shadow = this.#of(context, va);
    if (typeof shadow === 'number') return shadow;
    const status = shadow.update(va, iova, flags, bytes);
    if (status !== DMA_OK) this.lastFault = shadow.lastFault;
    return status;
  }

  #of(context: number, va: number): ShadowPageTable | Refusal {
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

  /** Reads a context's root pointer. Returns DMA_FAULT, too, if the pointer is not present. */
  #readRoot(context: number, va: number): DmaStatus {
    if (context === 0) {
      this.#root.setBigUint64(0, this.#base, true);
      return DMA_OK;
    }
    const at = (this.#table + context * CONTEXT_ROOT_BYTES) as Iova;
    const status = this.#dma.read(at, new Uint8Array(this.#root.buffer));
    const absent = status === DMA_OK && (this.#root.getUint32(0, true) & GPU_ROOT_PRESENT) === 0;
    if (status === DMA_OK && !absent) return DMA_OK;
    this.lastFault = { va, iova: absent ? 0 : at };
    return absent ? DMA_FAULT : status;
  }

  #forget(context: number): void {
    this.#shadows.get(context)?.dropAll();
    this.#shadows.delete(context);
  }
}
