/**
 * Walk of a pin table to one leaf entry, for tests that edit its words.
 */
import * as mem from '#mem';
import { PERM_MASK } from '../../src/pin-table/layout.ts';
import { gibEntry } from '../../src/pin-table/walk.ts';

const { rd } = mem;
const NODE_MASK = 511;

/** Returns the word index of the leaf entry that covers `iova`, or 0. */
export function findEntry(table: mem.SharedWords, iova: number): number {
  let entry = gibEntry(table, iova);
  if (entry === 0) return 0;
  const low = iova | 0;
  let word = rd(table, entry, 'walk.root');
  if ((word & PERM_MASK) !== 0) return entry;
  if (word === 0) return 0;
  entry = word | ((low >>> 21) & NODE_MASK);
  word = rd(table, entry, 'walk.mid');
  if ((word & PERM_MASK) !== 0) return entry;
  if (word === 0) return 0;
  entry = word | ((low >>> 12) & NODE_MASK);
  return (rd(table, entry, 'walk.leaf') & PERM_MASK) !== 0 ? entry : 0;
}
