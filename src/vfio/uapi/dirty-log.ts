/**
 * Dirty pages of a mapping of the calls' container, and the bitmap that reports them.
 *
 * A page that is pinned is dirty in every report. A page that was unpinned, or written by dma_rw, is dirty in the next
 * report only. The kernel shifts its bitmap in place and so reports pages that no device touched. This log reports
 * exactly the dirty pages, and leaves the caller's bits outside the mappings unchanged.
 */
import { VfioError } from '../errors.ts';
import { DIRTY_BITMAP_MAX, DIRTY_PAGES_MAX } from './vfio-uapi.ts';

/** The caller's bitmap: one bit per page of the range, lowest first. */
export interface UserBitmap {
  /** Bytes per bit. Only 4096 is accepted. */
  readonly pgsize: bigint;
  /** Size in bytes, as the caller states it. `data` may be shorter. */
  readonly size: bigint;
  readonly data: Uint8Array;
}

/** Dirty pages of one mapping, by page number of the IOVA. It is a set of pages, not a bitmap. */
export class DirtyLog {
  readonly #pages = new Set<number>();

  /**
   * @param size pages of the mapping
   * @throws VfioError EINVAL if the mapping has more pages than a bitmap may have bits
   */
  constructor(size: number, pinned: Iterable<number>) {
    checkLoggable(size);
    this.add(pinned);
  }

  add(pages: Iterable<number>): void {
    for (const page of pages) this.#pages.add(page);
  }

  addRange(first: number, last: number): void {
    for (let page = first; page <= last; page++) this.#pages.add(page);
  }

  /** Clears the log; then only the pinned pages are dirty. */
  restart(pinned: Iterable<number>): void {
    this.#pages.clear();
    this.add(pinned);
  }

  /** Stores the bits of the mapping [iova, iova + size) in a bitmap that begins at page `base`. */
  store(bitmap: Uint8Array, base: number, { iova, size }: { iova: number; size: number }): void {
    clearBits(bitmap, iova - base, size);
    for (const page of this.#pages) {
      const bit = page - base;
      const at = Math.floor(bit / 8);
      bitmap[at] = (bitmap[at] as number) | (1 << (bit % 8));
    }
  }
}

/** Checks that a mapping can be tracked. @throws VfioError EINVAL if it has more than DIRTY_PAGES_MAX pages */
export function checkLoggable(pages: number): void {
  if (pages > DIRTY_PAGES_MAX)
    throw new VfioError('EINVAL', `dirty tracking of ${pages} pages; accepted: at most ${DIRTY_PAGES_MAX}`);
}

function clearBits(bitmap: Uint8Array, from: number, count: number): void {
  const end = from + count;
  let bit = from;
  for (; bit < end && bit % 8 !== 0; bit++) clearBit(bitmap, bit);
  const bytes = Math.floor((end - bit) / 8);
  bitmap.fill(0, bit / 8, bit / 8 + bytes);
  for (bit += bytes * 8; bit < end; bit++) clearBit(bitmap, bit);
}

function clearBit(bitmap: Uint8Array, bit: number): void {
  const at = Math.floor(bit / 8);
  bitmap[at] = (bitmap[at] as number) & ~(1 << (bit % 8));
}

/**
 * Checks that the bitmap, in whole 64-bit words, can hold a range of `size` bytes.
 * @throws VfioError EINVAL
 */
export function checkBitmap({ pgsize, size: bytes, data }: UserBitmap, size: bigint): void {
  // The kernel shifts by the lowest set bit before it checks the page size itself.
  const lowest = pgsize & -pgsize;
  const pages = lowest === 0n ? 0n : size / lowest;
  const needed = ((pages + 63n) / 64n) * 8n;
  if (pages === 0n || bytes < needed || bytes > DIRTY_BITMAP_MAX || BigInt(data.length) < needed)
    throw new VfioError(
      'EINVAL',
      `bitmap of ${bytes} bytes for ${pages} pages; accepted: ${needed} to ${DIRTY_BITMAP_MAX}`,
    );
}
