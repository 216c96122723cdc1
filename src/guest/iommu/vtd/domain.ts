/**
 * One VT-d domain of a guest: an IOVA→GPA address space that devices can be attached to.
 */
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { InFlight } from '../../in-flight.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { GuestDomain, MapRange, UnmapRange } from '../guest-iommu.ts';
import { type EntryEncoding, PageTableEditor, type PageTablesState } from './page-table-editor.ts';

/** What a domain needs of its driver. */
export interface DomainHost {
  readonly ram: GuestRam;
  readonly pages: PageAllocator;
  readonly levels: number;
  readonly largestLeaf: number;
  /** First-stage or second-stage entries. */
  readonly encoding: EntryEncoding;
  /** CAP.CM: an entry that becomes present must be invalidated too. */
  readonly cachingMode: boolean;
  readonly inFlight: InFlight;
  /** Complete when no device uses what was cached for these ranges. */
  invalidate(domain: VtdDomain, ranges: readonly UnmapRange[]): Promise<void>;
}

/** A domain's id and what it knows of its tables. */
export interface VtdDomainState {
  readonly id: number;
  readonly tables: PageTablesState;
}

export class VtdDomain implements GuestDomain {
  readonly id: number;
  readonly #host: DomainHost;
  readonly #tables: PageTableEditor;

  /** @param saved tables that are there already. @throws PageAllocatorExhausted */
  constructor(id: number, host: DomainHost, saved?: PageTablesState) {
    this.id = id;
    this.#host = host;
    const { ram, pages, levels, largestLeaf, encoding } = host;
    this.#tables = new PageTableEditor(ram, pages, levels, largestLeaf, encoding, saved);
  }

  save(): VtdDomainState {
    return { id: this.id, tables: this.#tables.save() };
  }

  /** GPA of the top table, for the context or PASID entry. */
  get root(): number {
    return this.#tables.root;
  }

  /**
   * Maps with the largest leaves that alignment and the hardware allow. Resolves when devices see it.
   * @param size bytes, a multiple of 4 KiB
   * @throws MappingRangeError, IovaInUse, PageAllocatorExhausted, InvalidationTimeout
   */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void> {
    return this.mapAll([{ iova, gpa, size, perm }]);
  }

  /** As {@link map} for several ranges with one invalidation. When one throws, those before it stay mapped. */
  mapAll(ranges: readonly MapRange[]): Promise<void> {
    return this.#host.inFlight.run('map', () => this.#mapAll(ranges));
  }

  async #mapAll(ranges: readonly MapRange[]): Promise<void> {
    const mapped: MapRange[] = [];
    try {
      for (const range of ranges) {
        this.#tables.map(range.iova, range.gpa, range.size, range.perm);
        mapped.push(range);
      }
    } finally {
      if (this.#host.cachingMode && mapped.length > 0) await this.#invalidate(mapped);
    }
  }

  /**
   * Removes every mapping in the range. Resolves, with the number of bytes that were mapped, when no device can use
   * them any more; only then table pages that became empty are freed.
   * @throws MappingRangeError, PartialUnmap, InvalidationTimeout
   */
  unmap(iova: number, size: number): Promise<number> {
    return this.unmapAll([{ iova, size }]);
  }

  /** As {@link unmap} for several ranges with one invalidation. When one throws, those before it are unmapped. */
  unmapAll(ranges: readonly UnmapRange[]): Promise<number> {
    return this.#host.inFlight.run('unmap', () => this.#unmapAll(ranges));
  }

  async #unmapAll(ranges: readonly UnmapRange[]): Promise<number> {
    const unmapped: UnmapRange[] = [];
    let bytes = 0;
    try {
      for (const range of ranges) {
        const found = this.#tables.unmap(range.iova, range.size);
        bytes += found;
        if (found > 0) unmapped.push(range);
      }
    } finally {
      if (unmapped.length > 0) await this.#invalidate(unmapped);
    }
    return bytes;
  }

  /** Frees the tables. The driver calls it when no device can use them any more. */
  dismantle(): void {
    for (const table of this.#tables.dismantle()) this.#host.pages.free(table);
  }

  async #invalidate(ranges: readonly UnmapRange[]): Promise<void> {
    const retired = this.#tables.takeRetired();
    // After a time-out the tables leak on purpose: the hardware may still walk them.
    await this.#host.invalidate(this, ranges);
    for (const table of retired) this.#host.pages.free(table);
  }
}
