/**
 * Long pins of one page. The caller is in a DMA section, so no node is reused during the walk.
 *
 * A page in a leaf table takes two pins, each with the protocol of {@link pinAcquire}: one on the entry that links the
 * table, then one on the leaf. They are dropped in reverse order.
 *
 * Why the writer may drop a whole table after it has read only the pin word of its link:
 *
 * 1. The writer clears the link's valid bit and reads the link's count in one operation.
 * 2. A later pin finds the link invalid and never reaches a leaf.
 * 3. An earlier pin is in the count, and the writer waits for it.
 * 4. A leaf's pin is taken after its link's pin and dropped before it, so a link with count 0 has no pinned leaf.
 * 5. So the writer need not visit the leaves. Their words stay in a node that no thread can reach any more.
 *
 * Why the leaf that a reader pins is in the table whose link it has pinned:
 *
 * 1. A reader may have loaded an old link, and then find the link valid because the range was mapped again before this
 *    reader drained.
 * 2. So it loads the link's frame word again after it has pinned the link, and walks on from that word.
 * 3. That load cannot return a word older than the valid bit: the writer stores the frame word first, and the pin's
 *    addition synchronises with the store of the valid bit that it read.
 */
import * as mem from '#mem';
import * as layout from './layout.ts';
import * as protocol from './protocol.ts';
import * as walk from './walk.ts';

const { rd } = mem;
const { PERM_MASK, PFN_SHIFT } = layout;
const { pinAcquire, pinRelease } = protocol;
const { gibEntry } = walk;

/** Results of {@link pinPage} other than a host PFN: no mapping (or PIN_LIMIT reached), and no permission. */
export const PIN_UNMAPPED = -1;
export const PIN_DENIED = -2;

/** Pins the page at `iova` for `perm`. Returns its host PFN, PIN_UNMAPPED or PIN_DENIED. */
export function pinPage(table: mem.SharedWords, iova: number, perm: number): number {
  const gib = gibEntry(table, iova);
  if (gib === 0) return PIN_UNMAPPED;
  const low = iova | 0;
  const word = rd(table, gib, 'walk.root');
  if (word === 0) return PIN_UNMAPPED;
  if ((word & PERM_MASK) !== 0) return pinLeaf(table, gib, perm, (low >>> 12) & (2 ** 18 - 1));
  const link = word + ((low >>> 21) & 511);
  const child = rd(table, link, 'walk.mid');
  if (child === 0) return PIN_UNMAPPED;
  const page = (low >>> 12) & 511;
  if ((child & PERM_MASK) !== 0) return pinLeaf(table, link, perm, page);
  if (!pinAcquire(table, link)) return PIN_UNMAPPED;
  // 0 is possible: an unmap of the table's last page clears the link and does not wait for pins that find no leaf.
  const node = rd(table, link, 'walk.mid');
  const linked = node !== 0 && (node & PERM_MASK) === 0;
  const result = linked ? pinLeaf(table, node + page, perm, 0) : PIN_UNMAPPED;
  if (result < 0) pinRelease(table, link);
  return result;
}

/** Pins the leaf at `entry`; `page` is the 4 KiB page's index in it. */
function pinLeaf(table: mem.SharedWords, entry: number, perm: number, page: number): number {
  if ((rd(table, entry, 'walk.leaf') & PERM_MASK) === 0) return PIN_UNMAPPED;
  if (!pinAcquire(table, entry)) return PIN_UNMAPPED;
  // Only now: the pin keeps the frame word, and with it the mapping.
  const frame = rd(table, entry, 'walk.frame');
  if ((frame & PERM_MASK) !== 0 && (frame & perm) === perm) return (frame >>> PFN_SHIFT) + page;
  pinRelease(table, entry);
  return (frame & PERM_MASK) === 0 ? PIN_UNMAPPED : PIN_DENIED;
}

/** Drops one pin of the page at `iova`. Returns false if nothing is mapped there, so there was no pin. */
export function unpinPage(table: mem.SharedWords, iova: number): boolean {
  const gib = gibEntry(table, iova);
  if (gib === 0) return false;
  const low = iova | 0;
  const word = rd(table, gib, 'walk.root');
  if (word === 0) return false;
  if ((word & PERM_MASK) !== 0) return unpinLeaf(table, gib);
  const link = word + ((low >>> 21) & 511);
  const node = rd(table, link, 'walk.mid');
  if (node === 0) return false;
  if ((node & PERM_MASK) !== 0) return unpinLeaf(table, link);
  // The leaf first: the link's count must never be below the sum of the leaves' counts.
  if (!unpinLeaf(table, node + ((low >>> 12) & 511))) return false;
  pinRelease(table, link);
  return true;
}

function unpinLeaf(table: mem.SharedWords, entry: number): boolean {
  if ((rd(table, entry, 'walk.leaf') & PERM_MASK) === 0) return false;
  pinRelease(table, entry);
  return true;
}
