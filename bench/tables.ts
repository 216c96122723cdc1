/**
 * Tables and queries of the benches, the same on both sides.
 */
import { type Hpa, type Iova, PAGE_2M, PAGE_SIZE } from '../src/memory/address.ts';
import { PinTableWriter } from '../src/pin-table/writer.ts';

export const QUERIES = 2 ** 20;
export const SEED = 20161101;
/** Count of consecutive pages in a run of the clustered layout. Each run begins a new 2 MiB. */
export const CLUSTER = 64;
const FIRST_HPA = 2 ** 40;

export interface Layout {
  readonly name: string;
  readonly pages: number;
  /** Count of consecutive pages in a run; 0 means one run of all pages. */
  readonly run: number;
}

const iovaOf = (page: number, run: number): number =>
  run === 0 ? page * PAGE_SIZE : Math.floor(page / run) * PAGE_2M + (page % run) * PAGE_SIZE;

/** Fills a table with 4 KiB leaves. Frames are one page off, so no larger leaves are used. */
export function filledTable({ pages, run }: Layout): PinTableWriter {
  const length = run === 0 ? pages : run;
  const writer = new PinTableWriter(Math.ceil(pages / length) * 2 + Math.ceil(pages / 512) * 2 + 8);
  for (let page = 0; page < pages; page += length)
    writer.map(iovaOf(page, run) as Iova, (FIRST_HPA + (page + 1) * PAGE_SIZE) as Hpa, length * PAGE_SIZE, 3);
  return writer;
}

/** Draws QUERIES random IOVAs of mapped pages, by xorshift32 as on the C side. */
export function queriesOf({ pages, run }: Layout): Float64Array {
  let state = SEED;
  return Float64Array.from({ length: QUERIES }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return iovaOf((state >>> 0) % pages, run) + 8;
  });
}

/** Measures `work`. Returns nanoseconds per operation. */
export function timed(operations: number, work: () => void): number {
  const start = performance.now();
  work();
  return ((performance.now() - start) * 1e6) / operations;
}
