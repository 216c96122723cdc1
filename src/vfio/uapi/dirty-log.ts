/**
 * Dirty pages: what was written by a device since it was last asked, and the bitmap that says so.
 *
 * A pinned page counts as written at every moment, one that has been unpinned once more, one written by dma_rw once.
 * The kernel shifts its bitmap in place and so reports pages that nobody touched; here every dirty page is reported,
 * and no other, and bits outside the asked mappings stay as the caller left them.
 */
import { VfioError } from '../errors.ts';
import { DIRTY_BITMAP_MAX, DIRTY_PAGES_MAX } from './vfio-uapi.ts';

/** The caller's bitmap: one bit per page of the range, lowest first. */
export interface UserBitmap {
  /** Bytes per bit. Only 4096 is accepted. */
  readonly pgsize: bigint;
  /** The size the caller states, in bytes; `data` has as many. */
  readonly size: bigint;
  readonly data: Uint8Array;
}

/** Dirty pages of one mapping, by page number of the IOVA. Holds what was touched, not one bit per page. */
export class DirtyLog {
  readonly #pages = new Set<number>();

  /**
   * @param size of the mapping in pages
   * @throws VfioError EINVAL if it has more pages than a bitmap may have bits
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

  /** Starts over: only what is pinned is dirty from now on. */
  restart(pinned: Iterable<number>): void {
    this.#pages.clear();
    this.add(pinned);
  }

  /** Writes the bits of the mapping [iova, iova + size) into a bitmap that begins at page `base`. */
  store(bitmap: Uint8Array, base: number, { iova, size }: { iova: number; size: number }): void {
    clearBits(bitmap, iova - base, size);
    for (const page of this.#pages) {
      const bit = page - base;
      const at = Math.floor(bit / 8);
      bitmap[at] = (bitmap[at] as number) | (1 << (bit % 8));
    }
  }
}

/** @throws VfioError EINVAL */
export function checkLoggable(pages: number): void {
  if (pages > DIRTY_PAGES_MAX)
    throw new VfioError('EINVAL', `a mapping of ${pages} pages; ${DIRTY_PAGES_MAX} at most are tracked`);
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
 * Whether the bitmap can hold a range of `size` bytes: whole 64-bit words of it.
 * @throws VfioError EINVAL
 */
export function checkBitmap({ pgsize, size: bytes, data }: UserBitmap, size: bigint): void {
  // The kernel shifts by the lowest set bit before it looks whether it takes that page size at all.
  const lowest = pgsize & -pgsize;
  const pages = lowest === 0n ? 0n : size / lowest;
  const needed = ((pages + 63n) / 64n) * 8n;
  if (pages === 0n || bytes < needed || bytes > DIRTY_BITMAP_MAX || BigInt(data.length) < needed)
    throw new VfioError(
      'EINVAL',
      `a bitmap of ${bytes} bytes for ${pages} pages; ${needed} to ${DIRTY_BITMAP_MAX}`,
    );
}
