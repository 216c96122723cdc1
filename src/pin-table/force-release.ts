/**
 * Forced release of pins whose threads have ended. Only the writing thread calls this, when no other thread can pin.
 */
import * as mem from '#mem';
import { type Iova, PAGE_SIZE } from '../memory/address.ts';
import { NODE_ENTRIES, PIN_ONE, PIN_VALID, pinWord } from './layout.ts';
import { leafPins } from './protocol.ts';
import { forEachEntry, linkOf } from './ranges.ts';

const { rd, st, wake } = mem;

/** Drops every pin in the range. Returns their count. */
export function forceUnpin(table: mem.SharedWords, iova: Iova, size: number): number {
  let dropped = 0;
  forEachEntry(table, iova, size, (entry, isTable) => {
    if (isTable) dropped += forceTable(table, entry, true);
    else dropped += forceLeaf(table, entry);
  });
  // Links of leaf tables that the range covers in part can only be at its ends.
  for (const at of [iova, iova + size - PAGE_SIZE]) {
    const link = linkOf(table, at);
    if (link !== 0) forceTable(table, link, false);
  }
  return dropped;
}

function forceLeaf(table: mem.SharedWords, entry: number): number {
  const pins = leafPins(table, entry);
  if (pins > 0) force(table, entry, 0);
  return pins;
}

/**
 * Recounts the pins of the table below `link`, because a thread may have ended between its two pins. With `leaves`,
 * first drops the pins of all leaves. Returns the count of pins dropped from leaves.
 */
function forceTable(table: mem.SharedWords, link: number, leaves: boolean): number {
  if (leafPins(table, link) === 0) return 0;
  const node = rd(table, link, 'walk.mid');
  let [dropped, left] = [0, 0];
  for (let i = 0; i < NODE_ENTRIES; i++) {
    if (leaves) dropped += forceLeaf(table, node + i);
    else left += leafPins(table, node + i);
  }
  force(table, link, left);
  return dropped;
}

function force(table: mem.SharedWords, entry: number, pins: number): void {
  const word = pinWord(entry);
  const valid = rd(table, word, 'unmap.force') & PIN_VALID;
  st(table, word, valid + pins * PIN_ONE, 'unmap.force');
  wake(table, word, 'unmap.force');
}
