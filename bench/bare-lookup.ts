/**
 * The lookup of src/pin-table/walk.ts without `#mem`: what it would be if no access named its step.
 */
import * as address from '../src/address/address.ts';
import * as layout from '../src/pin-table/layout.ts';

const { PAGE_1G } = address;
const { PERM_MASK, PFN_SHIFT, TABLE_IOVA_LIMIT, WORD_ROOT } = layout;
const GIB_PAGE_MASK = 2 ** 18 - 1;
const NODE_OFFSET_MASK = 1022;

export function bareLookup(table: Int32Array, iova: number): number {
  if (!(iova >= 0 && iova < TABLE_IOVA_LIMIT)) return outOfRange(table, iova + 0);
  const low = iova | 0;
  let word = table[WORD_ROOT + (((iova / PAGE_1G) | 0) << 1)] as number;
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & GIB_PAGE_MASK) << PFN_SHIFT)) | 0;
  if (word === 0) return 0;
  word = table[word + ((low >>> 20) & NODE_OFFSET_MASK)] as number;
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & 511) << PFN_SHIFT)) | 0;
  if (word === 0) return 0;
  return table[word + ((low >>> 11) & NODE_OFFSET_MASK)] as number;
}

/** Where the real one would look for the high root. */
function outOfRange(table: Int32Array, iova: number): number {
  return iova < 0 ? 0 : (table[layout.WORD_HIGH_ROOT] as number);
}
