/**
 * The lookup of src/pin-table/walk.ts without `#mem`: what it would be if no access named its step.
 */
import * as layout from '../src/pin-table/layout.ts';

const { PERM_MASK, PFN_SHIFT, ROOT_ENTRIES, WORD_ROOT } = layout;
const GIB_PAGE_MASK = 2 ** 18 - 1;
const NODE_OFFSET_MASK = 1022;

export function bareLookupAt(table: Int32Array, gib: number, low: number): number {
  if (gib >>> 0 >= ROOT_ENTRIES) return 0;
  let word = table[(WORD_ROOT + (gib << 1)) | 0] as number;
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & GIB_PAGE_MASK) << PFN_SHIFT)) | 0;
  word = table[word | ((low >>> 20) & NODE_OFFSET_MASK)] as number;
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & 511) << PFN_SHIFT)) | 0;
  return table[word | ((low >>> 11) & NODE_OFFSET_MASK)] as number;
}
