/**
 * Ranges as naturally aligned powers of two, the unit of page invalidations.
 */
import { PAGE_SIZE } from '../../memory/address.ts';
import type { UnmapRange } from './guest-iommu.ts';

/** 2^`mask` pages at `iova`. */
export interface AlignedPiece {
  readonly iova: number;
  readonly mask: number;
}

/** Returns the pieces of all ranges; undefined if there are more than `limit`. */
export function alignedPieces(
  ranges: readonly UnmapRange[],
  largestMask: number,
  limit: number,
): AlignedPiece[] | undefined {
  const pieces: AlignedPiece[] = [];
  for (const { iova, size } of ranges)
    for (let at = iova; at < iova + size; ) {
      if (pieces.length === limit) return undefined;
      let mask = 0;
      while (mask < largestMask && fits(at, mask + 1, iova + size)) mask++;
      pieces.push({ iova: at, mask });
      at += PAGE_SIZE * 2 ** mask;
    }
  return pieces;
}

/** Returns true if 2^`mask` pages at `at` are naturally aligned and do not extend beyond `end`. */
const fits = (at: number, mask: number, end: number): boolean => {
  const size = PAGE_SIZE * 2 ** mask;
  return at % size === 0 && at + size <= end;
};
