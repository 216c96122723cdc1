/**
 * The lookup: three plain loads down the radix, one int32 back. Readers call it inside a DMA section.
 */
import * as mem from '#mem';
import { PAGE_1G } from '../address/address.ts';
import { PERM_MASK, PFN_SHIFT, TABLE_IOVA_LIMIT, WORD_ROOT } from './layout.ts';

const { rd } = mem;

/**
 * Word index of the leaf entry that covers `iova`, or 0. Its size follows from its level; the caller that needs it
 * asks {@link leafShift}.
 */
export function findEntry(table: mem.SharedWords, iova: number): number {
  if (!(iova >= 0 && iova < TABLE_IOVA_LIMIT)) return 0;
  const gib = (iova / PAGE_1G) | 0;
  const low = (iova - gib * PAGE_1G) | 0;
  let entry = WORD_ROOT + (gib << 1);
  let word = rd(table, entry, 'walk.root');
  if ((word & PERM_MASK) !== 0) return entry;
  if (word === 0) return 0;
  entry = word + ((low >>> 21) << 1);
  word = rd(table, entry, 'walk.mid');
  if ((word & PERM_MASK) !== 0) return entry;
  if (word === 0) return 0;
  entry = word + (((low >>> 12) & 511) << 1);
  return (rd(table, entry, 'walk.leaf') & PERM_MASK) !== 0 ? entry : 0;
}

/**
 * Leaf word of the 4 KiB page at `iova`: host PFN << 2 | permissions, or 0 if nothing is mapped there. For larger
 * leaves the page's offset is already added.
 */
export function lookup(table: mem.SharedWords, iova: number): number {
  if (!(iova >= 0 && iova < TABLE_IOVA_LIMIT)) return 0;
  const gib = (iova / PAGE_1G) | 0;
  const low = (iova - gib * PAGE_1G) | 0;
  let word = rd(table, WORD_ROOT + (gib << 1), 'walk.root');
  if ((word & PERM_MASK) !== 0) return (word + ((low >>> 12) << PFN_SHIFT)) | 0;
  if (word === 0) return 0;
  word = rd(table, word + ((low >>> 21) << 1), 'walk.mid');
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & 511) << PFN_SHIFT)) | 0;
  if (word === 0) return 0;
  return rd(table, word + (((low >>> 12) & 511) << 1), 'walk.leaf');
}

/** log2 of the size of the leaf that covers `iova`: 30, 21 or 12; 0 if there is none. */
export function leafShift(table: mem.SharedWords, iova: number): number {
  if (!(iova >= 0 && iova < TABLE_IOVA_LIMIT)) return 0;
  const gib = (iova / PAGE_1G) | 0;
  const low = (iova - gib * PAGE_1G) | 0;
  let word = rd(table, WORD_ROOT + (gib << 1), 'walk.root');
  if ((word & PERM_MASK) !== 0) return 30;
  if (word === 0) return 0;
  word = rd(table, word + ((low >>> 21) << 1), 'walk.mid');
  if ((word & PERM_MASK) !== 0) return 21;
  if (word === 0) return 0;
  return (rd(table, word + (((low >>> 12) & 511) << 1), 'walk.leaf') & PERM_MASK) !== 0 ? 12 : 0;
}
