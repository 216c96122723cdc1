/**
 * The writer's walks over a range of IOVAs: the entries in it, and the nodes that mapping it takes. Only the writing
 * thread calls these functions; they read words that it wrote itself.
 */
import * as mem from '#mem';
import * as address from '../memory/address.ts';
import type { HostExtent } from '../memory/guest-ram.ts';
import * as layout from './layout.ts';
import { PinTableError } from './reader.ts';
import * as walk from './walk.ts';

const { rd } = mem;
const { hex, PAGE_1G, PAGE_2M, PAGE_SHIFT, PAGE_SIZE } = address;
const { HIGH_SPAN, NODE_ENTRIES, PERM_MASK, PFN_LIMIT } = layout;
const { gibEntry } = walk;

type Visit = (entry: number, isTable: boolean) => void;

/** Returns whether `address` is a multiple of `size`. Divides, because `%` on doubles is a call. */
export const isAligned = (address: number, size: number): boolean =>
  Math.floor(address / size) * size === address;

/**
 * Visits the leaf entries in the range. For a leaf table that lies wholly in the range, visits its link instead.
 * Leaves belong to whole mappings, so none straddles an end of the range.
 */
export function forEachEntry(table: mem.SharedWords, iova: number, size: number, visit: Visit): void {
  const end = iova + size;
  for (let at = iova; at < end; ) {
    const start = Math.floor(at / PAGE_1G) * PAGE_1G;
    const next = Math.min(end, start + PAGE_1G);
    const entry = gibEntry(table, at);
    const word = entry === 0 ? 0 : rd(table, entry, 'walk.root');
    if ((word & PERM_MASK) !== 0) visit(entry, false);
    else if (word !== 0) forEachBelow(table, word, at - start, next - start, visit);
    at = next;
  }
}

/** {@link forEachEntry} in one node of 2 MiB entries; `low` and `end` are offsets in its 1 GiB. */
function forEachBelow(table: mem.SharedWords, mid: number, low: number, end: number, visit: Visit): void {
  for (let at = low; at < end; ) {
    const large = at >>> 21;
    const next = Math.min(end, (large + 1) * PAGE_2M);
    const entry = mid + large;
    const word = rd(table, entry, 'walk.mid');
    if ((word & PERM_MASK) !== 0) visit(entry, false);
    else if (word !== 0 && next - at === PAGE_2M) visit(entry, true);
    else if (word !== 0) {
      for (let page = at; page < next; page += PAGE_SIZE) {
        const leaf = word + ((page >>> PAGE_SHIFT) & (NODE_ENTRIES - 1));
        if (rd(table, leaf, 'walk.leaf') !== 0) visit(leaf, false);
      }
    }
    at = next;
  }
}

/** Returns the entry that links the leaf table of the page at `iova`, or 0 if it has none. */
export function linkOf(table: mem.SharedWords, iova: number): number {
  const gib = gibEntry(table, iova);
  const mid = gib === 0 ? 0 : rd(table, gib, 'walk.root');
  if (mid === 0 || (mid & PERM_MASK) !== 0) return 0;
  const link = mid + (Math.floor(iova / PAGE_2M) % NODE_ENTRIES);
  const node = rd(table, link, 'walk.mid');
  return node === 0 || (node & PERM_MASK) !== 0 ? 0 : link;
}

/**
 * Counts the nodes that mapping `extents` from `iova` on takes, before any leaf is written. Follows the writer's
 * choice of leaves, one leaf or leaf table at a time.
 * @throws PinTableError
 */
export function nodesNeeded(
  table: mem.SharedWords,
  limit: number,
  iova: number,
  extents: readonly HostExtent[],
): number {
  // One loop with its state in locals: divided into functions, the map of a single 1 GiB leaf took 14 % longer.
  let nodes = 0;
  let [countedHigh, countedMid, countedLeaf, base] = [-1, -1, -1, iova];
  for (const { hpa, size } of extents) {
    checkExtent(limit, base, hpa, size);
    const end = base + size;
    for (let at = base; at < end; ) {
      const gib = Math.floor(at / PAGE_1G);
      const pieceHpa = at + (hpa - base);
      const entry = gibEntry(table, at);
      const high = Math.floor(at / HIGH_SPAN);
      if (entry === 0 && countedHigh !== high) {
        countedHigh = high;
        nodes++;
      }
      const mid = entry === 0 ? 0 : rd(table, entry, 'map.link');
      if ((mid & PERM_MASK) !== 0) throw new PinTableError(`IOVA ${hex(at)} is already mapped`);
      if (mid === 0 && end - at >= PAGE_1G && isAligned(at, PAGE_1G) && isAligned(pieceHpa, PAGE_1G)) {
        at += PAGE_1G;
        continue;
      }
      if (mid === 0 && countedMid !== gib) {
        countedMid = gib;
        nodes++;
      }
      const large = Math.floor(at / PAGE_2M);
      const linked = mid !== 0 && rd(table, mid + (large % NODE_ENTRIES), 'map.link') !== 0;
      const isLeaf = end - at >= PAGE_2M && isAligned(at, PAGE_2M) && isAligned(pieceHpa, PAGE_2M);
      if (!linked && !isLeaf && countedLeaf !== large) {
        countedLeaf = large;
        nodes++;
      }
      at = (large + 1) * PAGE_2M;
    }
    base = end;
  }
  return nodes;
}

/** @throws PinTableError if an IOVA or an HPA of the extent has more bits than the table holds */
function checkExtent(limit: number, iova: number, hpa: number, size: number): void {
  if (iova + size > limit)
    throw new PinTableError(`IOVA ${hex(iova)} +${size} beyond ${Math.log2(limit)} bits`);
  if ((hpa + size) / PAGE_SIZE > PFN_LIMIT) throw new PinTableError(`HPA ${hex(hpa)} beyond 42 bits`);
}
