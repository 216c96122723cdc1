/**
 * Map and unmap of 1 GiB: as 4 KiB pages, against the same radix in C, and as one leaf.
 */
import { type Hpa, type Iova, PAGE_1G, PAGE_SIZE } from '../src/memory/address.ts';
import { PinTableWriter } from '../src/pin-table/writer.ts';
import { format, type Report, takeTurns } from './report.ts';
import type { Rival } from './rival.ts';
import { timed } from './tables.ts';

const PAGES = PAGE_1G / PAGE_SIZE;
const INSERT_BOUND = 1.25;
const DROP_BOUND = 5;
const LEAF_BOUND = 500;
const REPEATS = 4;
const LEAF_REPEATS = 2000;
const ALIGNED = 2 ** 40;
/** One page off, so no larger leaves are used. */
const MISALIGNED = ALIGNED + PAGE_SIZE;

function drop(writer: PinTableWriter): void {
  if (writer.invalidate(0 as Iova, PAGE_1G) !== 0) throw new Error('something is pinned');
  writer.clear(0 as Iova, PAGE_1G);
  writer.bump();
  if (writer.waitDrained(0)) throw new Error('a reader is inside');
  writer.reclaim();
}

export async function benchMap(report: Report, rival: Rival): Promise<void> {
  report.say('map: 1 GiB, µs: as 4 KiB pages / page by page in C / its unmap / map and unmap as one leaf');
  const small = new PinTableWriter(1024);
  const large = new PinTableWriter(16);
  for (const writer of [small, large]) writer.addReader();
  let unmap = 0;
  const mapPages = () => {
    let map = 0;
    unmap = 0;
    for (let i = 0; i < REPEATS; i++) {
      map += timed(REPEATS, () => small.map(0 as Iova, MISALIGNED as Hpa, PAGE_1G, 3));
      unmap += timed(REPEATS, () => drop(small));
    }
    return map;
  };
  const mapLeaf = () =>
    timed(LEAF_REPEATS, () => {
      for (let i = 0; i < LEAF_REPEATS; i++) {
        large.map(0 as Iova, ALIGNED as Hpa, PAGE_1G, 3);
        drop(large);
      }
    });
  const result = await takeTurns([
    mapPages,
    () => rival.ask(`insert ${REPEATS}`),
    mapLeaf,
    () => {
      mapPages();
      return unmap;
    },
  ]);
  const [map, insert, leaf, dropped] = result.ns as [number, number, number, number];
  report.say([map, insert, dropped, leaf].map((ns) => format(ns / 1000).padStart(9)).join(' '));
  report.bound(`map 1 GiB as ${PAGES} pages: WebAssembly to C`, result.ratio(0, 1), '≤', INSERT_BOUND);
  // The rivals of the other two are C's pages: the kernel that maps pages has become faster than these.
  report.bound('map 1 GiB as pages in C to dropping it', result.ratio(1, 3), '≥', DROP_BOUND);
  report.bound('map 1 GiB as pages in C to map and unmap as one leaf', result.ratio(1, 2), '≥', LEAF_BOUND);
  if (small.nodesInUse + large.nodesInUse !== 0) throw new Error('nodes are left in use');
}
