/**
 * Long pins of one page. The caller is in a DMA section, so that no node is reused under the walk.
 *
 * A page in a leaf table takes two pins, each with the protocol of {@link pinAcquire}: first one on the entry that
 * links the table, then one on the leaf; they are dropped in reverse. Why the writer may then drop a whole table by
 * looking at its link alone:
 *
 * - It clears the link's valid bit and reads the link's count in one operation. A pin that comes later sees invalid
 *   at the link and never reaches a leaf. A pin that came earlier is in the count, and the writer waits for it. A
 *   leaf's pin lies wholly inside its link's, so a link with count 0 has no pinned leaf, and the leaves need not be
 *   visited: their words are left as they are in a node that nobody can reach any more.
 * - A reader may have walked through the old link, and find the link valid again because the range was mapped anew
 *   before it drained. So it reads the link's frame word once more, now that its pin holds it: the leaf it goes on to
 *   is always one of the table it has announced itself on. The reread cannot see an older word than the valid bit it
 *   met: the writer publishes the frame word first, and the pin's addition acquires what it read from.
 */
import * as mem from '#mem';
import * as layout from './layout.ts';
import * as protocol from './protocol.ts';
import * as walk from './walk.ts';

const { rd } = mem;
const { PERM_MASK, PFN_SHIFT } = layout;
const { pinAcquire, pinRelease } = protocol;
const { gibEntry } = walk;

/** Answers of {@link pinPage} that are not a host PFN: no mapping (or PIN_LIMIT reached), no permission. */
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
  // Read again: an unmap of the table's last page clears the link without waiting for pins that will find nothing.
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
  // The pin holds the frame word, and with it the mapping: read it only now.
  const frame = rd(table, entry, 'walk.frame');
  if ((frame & PERM_MASK) !== 0 && (frame & perm) === perm) return (frame >>> PFN_SHIFT) + page;
  pinRelease(table, entry);
  return (frame & PERM_MASK) === 0 ? PIN_UNMAPPED : PIN_DENIED;
}

/** Drops one pin of the page at `iova`. False if nothing is mapped there: the pin was never had. */
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
  // The leaf first: the link's count must never be below the sum of its leaves'.
  if (!unpinLeaf(table, node + ((low >>> 12) & 511))) return false;
  pinRelease(table, link);
  return true;
}

function unpinLeaf(table: mem.SharedWords, entry: number): boolean {
  if ((rd(table, entry, 'walk.leaf') & PERM_MASK) === 0) return false;
  pinRelease(table, entry);
  return true;
}
