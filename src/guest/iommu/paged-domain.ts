/**
 * A domain of a guest's driver that keeps its translations in page tables in guest RAM: an IOVA→GPA address space to which
 * devices are attached.
 */
import type { InFlight } from '../in-flight.ts';
import type { PageAllocator } from '../page-allocator.ts';
import type { GuestDomain, MapRange, UnmapRange } from './guest-iommu.ts';

/** The page tables of one domain, in the hardware's format. */
export interface DomainTables<State> {
  /** GPA of the top-level table. */
  readonly root: number;
  /** @throws MappingRangeError, IovaInUse, PageAllocatorExhausted; then nothing of the range stays mapped */
  map(iova: number, gpa: number, size: number, perm: number): void;
  /** Returns the count of bytes that were mapped. @throws MappingRangeError, PartialUnmap */
  unmap(iova: number, size: number): number;
  /** Returns the tables that are unlinked. They may be freed after an invalidation that started after this call. */
  takeRetired(): number[];
  /** Returns all tables, the root included, of a domain that no device uses any more. */
  dismantle(): number[];
  save(): State;
}

/** The parts of a driver that its domains use. */
export interface DomainHost<State> {
  /** For page tables. */
  readonly pages: PageAllocator;
  /** True if entries must also be invalidated when they become present. */
  readonly cachingMode: boolean;
  readonly inFlight: InFlight;
  /** Invalidates the translations of these ranges; resolves when no device uses them any more. */
  invalidate(domain: PagedDomain<State>, ranges: readonly UnmapRange[]): Promise<void>;
}

/** State of a domain: its ID and its page tables. */
export interface PagedDomainState<State> {
  readonly id: number;
  readonly tables: State;
}

export class PagedDomain<State> implements GuestDomain {
  readonly id: number;
  readonly #host: DomainHost<State>;
  readonly #tables: DomainTables<State>;
  /** Ranges that are unmapped without an invalidation, and the tables that are empty since. */
  #deferred: { readonly ranges: UnmapRange[]; readonly tables: number[] } = { ranges: [], tables: [] };

  constructor(id: number, host: DomainHost<State>, tables: DomainTables<State>) {
    this.id = id;
    this.#host = host;
    this.#tables = tables;
  }

  save(): PagedDomainState<State> {
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
