/**
 * The lookup of src/pin-table/walk.ts without `#mem`, so no access names its step.
 */
import * as layout from '../src/pin-table/layout.ts';

const { PERM_MASK, PFN_SHIFT, ROOT_ENTRIES, WORD_ROOT } = layout;
const GIB_PAGE_MASK = 2 ** 18 - 1;
const NODE_MASK = 511;

export function bareLookupAt(table: Int32Array, gib: number, low: number): number {
  if (gib >>> 0 >= ROOT_ENTRIES) return 0;
  const gibEntry = (WORD_ROOT + gib) | 0;
  let word = table[gibEntry] as number;
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & GIB_PAGE_MASK) << PFN_SHIFT)) | 0;
  const midEntry = word | ((low >>> 21) & NODE_MASK);
  word = table[midEntry] as number;
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & NODE_MASK) << PFN_SHIFT)) | 0;
  const leafEntry = word | ((low >>> 12) & NODE_MASK);
  return table[leafEntry] as number;
}
