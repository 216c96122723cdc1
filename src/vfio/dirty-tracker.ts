/**
 * Dirty pages of the devices' container: reads the pages that device threads write and hold from the pin table's page
 * log. uapi/dirty-log.ts is its counterpart for the calls' container.
 */
import { type Iova, PAGE_SIZE } from '../memory/address.ts';
import type { PinTableWriter } from '../pin-table/writer.ts';
import type { Completion } from '../platform/completion.ts';
import { VfioError } from './errors.ts';
import type { Backing, DmaMapping } from './mapping.ts';
import { spanText, takenBy } from './mapping-rules.ts';

/** The part of a container that its tracker uses. */
interface TrackedContainer {
  /** Returns the mappings that intersect [start, end), in ascending order. */
  within(start: number, end: number): DmaMapping[];
  /** Complete when every device has left the DMA section it is in. */
  drain(): Completion;
}

/**
 * Tracks 4 KiB pages of host memory. A page is dirty if, since the last query for it, a device has written it or has
 * held it pinned at any moment. A query clears the page's mark, also for every other address of that page.
 */
export class DirtyTracker {
  readonly #table: PinTableWriter;
  readonly #backing: Backing;
  readonly #container: TrackedContainer;
  #tracking = false;

  constructor(table: PinTableWriter, backing: Backing, container: TrackedContainer) {
    this.#table = table;
    this.#backing = backing;
    this.#container = container;
  }

  get tracking(): boolean {
    return this.#tracking;
  }

  /**
   * VFIO_IOMMU_DIRTY_PAGES_FLAG_START. Restarts if tracking is on. Complete when every DMA section that does not log
   * its writes has ended.
   * @throws VfioError ENOTTY if the pin table has no page log
   */
  start(): Completion {
    if (!this.#table.log.exists) throw new VfioError('ENOTTY', 'this container has no log of dirty pages');
    this.#table.log.setLogging(true);
    this.#tracking = true;
    return this.#container.drain();
  }

  /** VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP. */
  stop(): void {
    this.#tracking = false;
    this.#table.log.setLogging(false);
  }

  /**
   * Returns the dirty pages of [iova, iova + size) as VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP does: one bit per
   * `pageSize` bytes, lowest first. The bit of a larger page is set if any 4 KiB in it is dirty. Memory that is mapped
   * twice in the range is dirty at both places.
   * @throws VfioError EINVAL: not tracking, or the range splits a mapping or is not a multiple of the page size
   */
  pages(iova: Iova, size: number, pageSize = PAGE_SIZE): Uint8Array {
    this.#check(iova, size, pageSize);
    const mappings = takenBy('refuse', { iova, size }, this.#container.within(iova, iova + size));
    // The log is read once per page, however often it is mapped: reading clears the mark.
    const asked = new Map<number, boolean>();
    const take = (pfn: number): boolean => {
      const dirty = asked.get(pfn) ?? this.#table.log.take(pfn);
      asked.set(pfn, dirty);
      return dirty;
    };
    return this.#bitmap(size, pageSize, take, (visit) => {
      for (const mapping of mappings)
        for (let at: number = mapping.iova; at < mapping.iova + mapping.size; at += PAGE_SIZE)
          visit(at - iova, this.#table.frameAt(at));
    });
  }

  /**
   * Returns the dirty pages of the memory [vaddr, vaddr + size), mapped or not, as {@link pages} does. A migration uses
   * it, because a device may have written through a mapping that was removed.
   * @throws VfioError EINVAL as {@link pages}; EFAULT if there is no memory, or the backing has no `frameOf`
   */
  memory(vaddr: number, size: number, pageSize = PAGE_SIZE): Uint8Array {
    this.#check(vaddr, size, pageSize);
    return this.#bitmap(
      size,
      pageSize,
      (pfn) => this.#table.log.take(pfn),
      (visit) => {
        for (let at = 0; at < size; at += PAGE_SIZE) {
          const pfn = this.#backing.frameOf?.(vaddr + at) ?? -1;
          if (pfn < 0)
            throw new VfioError('EFAULT', `no memory at ${spanText({ iova: vaddr + at, size: PAGE_SIZE })}`);
          visit(at, pfn);
        }
      },
    );
  }

  /**
   * Fills a bitmap.
   * @param take returns whether a page is dirty, and clears its mark
   * @param walk visits each page with its offset in the range, and its host PFN or -1
   */
  #bitmap(
    size: number,
    pageSize: number,
    take: (pfn: number) => boolean,
    walk: (visit: (offset: number, pfn: number) => void) => void,
  ): Uint8Array {
    const bitmap = new Uint8Array(Math.ceil(size / pageSize / 8));
    walk((offset, pfn) => {
      if (pfn < 0 || !take(pfn)) return;
      const bit = Math.floor(offset / pageSize);
      bitmap[bit >>> 3] = (bitmap[bit >>> 3] as number) | (1 << (bit & 7));
    });
    return bitmap;
  }

  #check(start: number, size: number, pageSize: number): void {
    if (!this.#tracking) throw new VfioError('EINVAL', 'dirty pages are not being tracked');
    const isPower = pageSize >= PAGE_SIZE && Number.isInteger(Math.log2(pageSize));
    if (!isPower || size <= 0 || start % pageSize !== 0 || size % pageSize !== 0)
      throw new VfioError(
        'EINVAL',
        `${spanText({ iova: start, size })} in pages of ${pageSize}; ` +
          'accepted: a page size of 4096 or a larger power of two, and multiples of it',
      );
  }
}
