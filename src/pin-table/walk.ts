/**
 * The lookup: three plain loads down the radix, one int32 as the result. Readers call it inside a DMA section.
 *
 * IOVAs below 2^48 have a root of their own, so they cost the same in a table of 57 bits. Only IOVAs that fail the
 * first comparison read the high root, which takes one more load.
 *
 * Constants and the functions of `#mem` are copied into local constants. V8 loads and checks an imported constant at
 * each use, and then divides where it could multiply (23 ns instead of 15 ns per lookup).
 *
 * `iova | 0` is the low 32 bits of any IOVA. A node's index is a multiple of its size, so `|` adds an entry's offset
 * and needs no overflow check.
 */
import * as mem from '#mem';
import * as address from '../memory/address.ts';
import * as layout from './layout.ts';

const { rd } = mem;
const { PAGE_1G } = address;
const {
  HIGH_IOVA_LIMIT,
  HIGH_SPAN,
  PERM_MASK,
  PFN_SHIFT,
  ROOT_ENTRIES,
  TABLE_IOVA_LIMIT,
  WORD_HIGH_ROOT,
  WORD_ROOT,
} = layout;

const GIB_PAGE_MASK = 2 ** 18 - 1;
const NODE_MASK = 511;

/** Returns the word index of the 1 GiB entry for `iova`, or 0 if it is out of range or its 512 GiB have no node. */
export function gibEntry(table: mem.SharedWords, iova: number): number {
  if (!(iova >= 0 && iova < TABLE_IOVA_LIMIT)) return gibEntryHigh(table, iova);
  return WORD_ROOT + ((iova / PAGE_1G) | 0);
}

/** Returns the word index of the high root's entry for the 512 GiB with index `span`. */
export const highEntry = (root: number, span: number): number => root + span + (span & ~NODE_MASK);

/** {@link gibEntry} for IOVAs from 2^48 on. */
function gibEntryHigh(table: mem.SharedWords, iova: number): number {
  const root = rd(table, WORD_HIGH_ROOT, 'walk.high');
  if (root === 0 || !(iova >= TABLE_IOVA_LIMIT && iova < HIGH_IOVA_LIMIT)) return 0;
  const span = (iova / HIGH_SPAN) | 0;
  const node = rd(table, highEntry(root, span), 'walk.high');
  return node === 0 ? 0 : node | ((iova - span * HIGH_SPAN) / PAGE_1G);
}

/**
 * Returns the leaf word of the 4 KiB page at `iova`: host PFN << 2 | permissions, or 0 if nothing is mapped there. For
 * a larger leaf, the page's offset in it is already added.
 */
export function lookup(table: mem.SharedWords, iova: number): number {
  // The addition keeps the call out of optimised code until the branch is taken: V8 deoptimises at arithmetic that has
  // not run yet, but compiles a call and spills registers around it (14.0 ns instead of 11.2 ns per lookup).
  if (!(iova >= 0 && iova < TABLE_IOVA_LIMIT)) return lookupHigh(table, iova + 0);
  const low = iova | 0;
  let word = rd(table, WORD_ROOT + ((iova / PAGE_1G) | 0), 'walk.root');
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & GIB_PAGE_MASK) << PFN_SHIFT)) | 0;
  word = rd(table, word | ((low >>> 21) & NODE_MASK), 'walk.mid');
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & NODE_MASK) << PFN_SHIFT)) | 0;
  return rd(table, word | ((low >>> 12) & NODE_MASK), 'walk.leaf');
}

/**
 * {@link lookup} for an IOVA below 2^48 that is already split into two int32: `gib` is IOVA >> 30, `low` is its low 32
 * bits. The upper two bits of `low` are ignored. Splitting a double costs as much as the walk (10 ns instead of 6 ns
 * per lookup), so a caller that visits page after page, or holds page numbers, splits once.
 */
export function lookupAt(table: mem.SharedWords, gib: number, low: number): number {
  if (gib >>> 0 >= ROOT_ENTRIES) return 0;
  let word = rd(table, (WORD_ROOT + gib) | 0, 'walk.root');
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & GIB_PAGE_MASK) << PFN_SHIFT)) | 0;
  word = rd(table, word | ((low >>> 21) & NODE_MASK), 'walk.mid');
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & NODE_MASK) << PFN_SHIFT)) | 0;
  return rd(table, word | ((low >>> 12) & NODE_MASK), 'walk.leaf');
}

function lookupHigh(table: mem.SharedWords, iova: number): number {
  const entry = gibEntryHigh(table, iova);
  if (entry === 0) return 0;
  const low = iova | 0;
  let word = rd(table, entry, 'walk.root');
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & GIB_PAGE_MASK) << PFN_SHIFT)) | 0;
  word = rd(table, word | ((low >>> 21) & NODE_MASK), 'walk.mid');
  if ((word & PERM_MASK) !== 0) return (word + (((low >>> 12) & NODE_MASK) << PFN_SHIFT)) | 0;
  return rd(table, word | ((low >>> 12) & NODE_MASK), 'walk.leaf');
}
