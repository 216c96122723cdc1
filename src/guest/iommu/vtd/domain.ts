/**
 * A VT-d domain of a guest: an IOVA→GPA address space to which devices are attached.
 */
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { InFlight } from '../../in-flight.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { GuestDomain, MapRange, UnmapRange } from '../guest-iommu.ts';
import { type EntryEncoding, PageTableEditor, type PageTablesState } from './page-table-editor.ts';

/** The parts of a driver that its domains use. */
export interface DomainHost {
  readonly ram: GuestRam;
  /** For page tables. */
  readonly pages: PageAllocator;
  /** Count of levels of the page tables. */
  readonly levels: number;
  /** Level of the largest leaf: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB. */
  readonly largestLeaf: number;
  /** First-stage or second-stage entries. */
  readonly encoding: EntryEncoding;
  /** CAP.CM: entries must also be invalidated when they become present. */
  readonly cachingMode: boolean;
  readonly inFlight: InFlight;
  /** Invalidates the translations of these ranges; resolves when no device uses them any more. */
  invalidate(domain: VtdDomain, ranges: readonly UnmapRange[]): Promise<void>;
}

/** State of a domain: its ID and its page tables. */
export interface VtdDomainState {
  readonly id: number;
  readonly tables: PageTablesState;
}

/** A domain of the VT-d driver. */
export class VtdDomain implements GuestDomain {
  readonly id: number;
  readonly #host: DomainHost;
  readonly #tables: PageTableEditor;
  /** Ranges that are unmapped without an invalidation, and the tables that are empty since. */
  #deferred: { readonly ranges: UnmapRange[]; readonly tables: number[] } = { ranges: [], tables: [] };

  /**
   * @param saved tables that are in guest RAM already
   * @throws PageAllocatorExhausted
   */
  constructor(id: number, host: DomainHost, saved?: PageTablesState) {
    this.id = id;
    this.#host = host;
    const { ram, pages, levels, largestLeaf, encoding } = host;
    this.#tables = new PageTableEditor(ram, pages, levels, largestLeaf, encoding, saved);
  }

  save(): VtdDomainState {
    return { id: this.id, tables: this.#tables.save() };
  }

  /** GPA of the top-level table, for the context or PASID entry. */
  get root(): number {
    return this.#tables.root;
  }

  /**
   * Maps a range with the largest leaves that alignment and hardware allow; resolves when devices see the mapping.
   * @param size bytes, a multiple of 4 KiB
   * @throws MappingRangeError, IovaInUse, PageAllocatorExhausted, InvalidationTimeout
   */
  map(iova: number, gpa: number, size: number, perm: number): Promise<void> {
    return this.mapAll([{ iova, gpa, size, perm }]);
  }

  /** Maps several ranges with one invalidation; else as {@link map}. If one throws, earlier ones stay mapped. */
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
   * Removes all mappings in a range. Resolves to the count of bytes that were mapped when no device can use the
   * mappings any more; then it has also freed the empty tables.
   * @throws MappingRangeError, PartialUnmap, InvalidationTimeout
   */
  unmap(iova: number, size: number): Promise<number> {
    return this.unmapAll([{ iova, size }]);
  }

  /** Unmaps several ranges with one invalidation; else as {@link unmap}. If one throws, earlier ones are unmapped. */
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

  /** Clears the entries of a range; hardware may use the mappings until {@link flush}. */
  unmapLazily(iova: number, size: number): Promise<number> {
    return this.#host.inFlight.run('unmap', async () => {
      const found = this.#tables.unmap(iova, size);
      if (found > 0) this.#deferred.ranges.push({ iova, size });
      this.#deferred.tables.push(...this.#tables.takeRetired());
      return found;
    });
  }

  /** Invalidates all that {@link unmapLazily} has cleared. @throws InvalidationTimeout */
  flush(): Promise<void> {
    return this.#host.inFlight.run('flush', async () => {
      const { ranges, tables } = this.#deferred;
      this.#deferred = { ranges: [], tables: [] };
      if (ranges.length > 0) await this.#host.invalidate(this, ranges);
      for (const table of tables) this.#host.pages.free(table);
    });
  }

  /** Frees the tables. The driver must call it only when no device can use them any more. */
  dismantle(): void {
    for (const table of this.#tables.dismantle()) this.#host.pages.free(table);
  }

  async #invalidate(ranges: readonly UnmapRange[]): Promise<void> {
    const retired = this.#tables.takeRetired();
    // After a time-out the tables leak: the hardware may still walk them.
    await this.#host.invalidate(this, ranges);
    for (const table of retired) this.#host.pages.free(table);
  }
}
