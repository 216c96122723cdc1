/**
 * Random lookups among many mapped 4 KiB pages: this table, the same radix in C, and the trees of the kernel and QEMU.
 */
import * as mem from '#mem';
import * as address from '../src/memory/address.ts';
import * as layout from '../src/pin-table/layout.ts';
import { PinTableReader } from '../src/pin-table/reader.ts';
import * as walk from '../src/pin-table/walk.ts';
import type { PinTableWriter } from '../src/pin-table/writer.ts';
import * as bare from './bare-lookup.ts';
import { format, type Report, takeTurns } from './report.ts';
import type { Rival } from './rival.ts';
import { CLUSTER, filledTable, type Layout, SEED, timed } from './tables.ts';

const { PAGE_2M, PAGE_SIZE } = address;
const { lookup, lookupAt } = walk;
const { bareLookupAt } = bare;

const LAYOUTS: readonly Layout[] = [
  { name: '1k dense', pages: 1024, run: 0 },
  { name: '64k dense', pages: 65536, run: 0 },
  { name: '1M dense', pages: 1048576, run: 0 },
  { name: '1k clustered', pages: 1024, run: CLUSTER },
  { name: '64k clustered', pages: 65536, run: CLUSTER },
  { name: '1M clustered', pages: 1048576, run: CLUSTER },
];
const LOOKUPS = 2 ** 20;
const TREE_LOOKUPS = LOOKUPS / 8;

/** Maximum ratio to the radix in C, by layout. */
const RADIX_BOUND: Readonly<Record<string, number>> = { '1k dense': 2.5, '64k dense': 1.5, '1M dense': 1.5 };
/** Maximum ratio of lookups in lists to the same in C. */
const LIST_BOUND = 1.25;
/** Minimum ratio of the trees to this table, by layout. */
const TREE_BOUND: Readonly<Record<string, number>> = { '1k dense': 10, '64k dense': 50 };
const GROWTH_BOUND = 1.3;
const DENSE_BYTES = 10;
const CLUSTERED_BYTES = 100;
const SITES_BOUND = 1.02;
/** Count of rounds for the bound of 2 %, which needs more than the others. */
const ROUNDS_OF_SITES = 101;

/**
 * Lookups in one call, and in one iteration of its loop. V8 would compile a loop of a million while it runs, with
 * tagged counters, and the measurement would include V8's loop check. gcc's loop has neither.
 */
const BATCH = 512;
const UNROLL = 4;

let sink = 0;
/** State of the random numbers: xorshift32, as on the C side. */
let random = SEED;

/** Draws random pages of a layout by arithmetic: an array of queries would evict the tables from the caches. */
class Pages {
  readonly mask: number;
  /** Mask of a page number's bits inside its run, and the shift of the other bits. */
  readonly run: number;
  readonly shift: number;

  constructor({ pages, run }: Layout) {
    this.mask = pages - 1;
    this.run = run ? run - 1 : -1;
    this.shift = run ? Math.log2(PAGE_2M / PAGE_SIZE / run) : 0;
  }
}

const next = (state: number): number => {
  const a = state ^ (state << 13);
  const b = a ^ (a >>> 17);
  return b ^ (b << 5);
};

type Batch<W> = (words: W, pages: Pages) => number;

const pageOf = (n: number, run: number, shift: number): number => (n & run) | ((n & ~run) << shift);

/** Looks up page numbers, as a device with its own page tables does. */
const withSites: Batch<mem.SharedWords> = (words, { mask, run, shift }) => {
  let sum = 0;
  let d = random;
  for (let i = 0; i < BATCH; i += UNROLL) {
    const a = next(d);
    const b = next(a);
    const c = next(b);
    d = next(c);
    const p = pageOf(a & mask, run, shift);
    const q = pageOf(b & mask, run, shift);
    const r = pageOf(c & mask, run, shift);
    const s = pageOf(d & mask, run, shift);
    sum = (sum + lookupAt(words, p >>> 18, p << 12) + lookupAt(words, q >>> 18, q << 12)) | 0;
    sum = (sum + lookupAt(words, r >>> 18, r << 12) + lookupAt(words, s >>> 18, s << 12)) | 0;
  }
  random = d;
  return sum;
};

/** {@link withSites} with the lookup that names no sites. */
const withoutSites: Batch<Int32Array> = (words, { mask, run, shift }) => {
  let sum = 0;
  let d = random;
  for (let i = 0; i < BATCH; i += UNROLL) {
    const a = next(d);
    const b = next(a);
    const c = next(b);
    d = next(c);
    const p = pageOf(a & mask, run, shift);
    const q = pageOf(b & mask, run, shift);
    const r = pageOf(c & mask, run, shift);
    const s = pageOf(d & mask, run, shift);
    sum = (sum + bareLookupAt(words, p >>> 18, p << 12) + bareLookupAt(words, q >>> 18, q << 12)) | 0;
    sum = (sum + bareLookupAt(words, r >>> 18, r << 12) + bareLookupAt(words, s >>> 18, s << 12)) | 0;
  }
  random = d;
  return sum;
};

/** Looks up IOVAs: doubles, which each lookup splits. */
const fromIovas: Batch<mem.SharedWords> = (words, { mask, run, shift }) => {
  let sum = 0;
  let state = random;
  for (let i = 0; i < BATCH; i++) {
    state = next(state);
    sum = (sum + lookup(words, pageOf(state & mask, run, shift) * PAGE_SIZE + 8)) | 0;
  }
  random = state;
  return sum;
};

/** Draws a list of pages, then looks all of them up, as `lookup batch` in bench/c/rival.c. */
const inLists: Batch<PinTableReader> = (reader, { mask, run, shift }) => {
  let sum = 0;
  let state = random;
  for (let i = 0; i < BATCH; i++) {
    state = next(state);
    reader.list(i, pageOf(state & mask, run, shift));
  }
  random = state;
  reader.lookupList(BATCH);
  for (let i = 0; i < BATCH; i++) sum = (sum + reader.listed(i)) | 0;
  return sum;
};

/** Returns nanoseconds per lookup. A first pass loads what the other sides have evicted from the caches. */
function timeOf<W>(batch: Batch<W>, words: W, pages: Pages): number {
  const pass = () => {
    for (let i = 0; i < LOOKUPS; i += BATCH) sink ^= batch(words, pages);
  };
  pass();
  return timed(LOOKUPS, pass);
}

export async function benchLookup(report: Report, rival: Rival): Promise<void> {
  report.say(
    'lookup: ns per random lookup, JS / C radix / C red-black tree / JS from an IOVA (a double)' +
      (rival.hasGlib ? ' / GTree' : ''),
  );
  if (!rival.hasGlib)
    report.say('GTree skipped: the headers of GLib are not installed (pkg-config glib-2.0)');
  // First, while V8 has run neither of its loops: a loop with earlier type feedback is 3 % slower.
  await sites(report);
  for (const shape of LAYOUTS) await compare(report, rival, shape);
  await growth(report, rival);
}

async function compare(report: Report, rival: Rival, shape: Layout): Promise<void> {
  const writer = filledTable(shape);
  const pages = new Pages(shape);
  const words = mem.wordsOf(writer.sab);
  await rival.ask(`setup ${shape.pages} ${shape.run} ${SEED}`);
  const sides = [
    () => timeOf(withSites, words, pages),
    () => rival.ask(`lookup radix ${LOOKUPS}`),
    () => rival.ask(`lookup rb ${TREE_LOOKUPS}`),
    () => timeOf(fromIovas, words, pages),
    ...(rival.hasGlib ? [() => rival.ask(`lookup glib ${TREE_LOOKUPS}`)] : []),
  ];
  const result = await takeTurns(sides);
  report.say(`${shape.name.padEnd(14)} ${result.ns.map((ns) => format(ns).padStart(8)).join(' ')}`);
  const radix = RADIX_BOUND[shape.name];
  if (radix) report.bound(`lookup ${shape.name}: JS to C radix`, result.ratio(0, 1), '≤', radix);
  const tree = TREE_BOUND[shape.name];
  if (tree) {
    report.bound(`lookup ${shape.name}: C red-black tree to JS`, result.ratio(2, 0), '≥', tree);
    if (rival.hasGlib) report.bound(`lookup ${shape.name}: GTree to JS`, result.ratio(4, 0), '≥', tree);
  }
  await compareLists(report, rival, shape, writer);
  const bytes = memoryOf(shape, writer.nodesInUse) / shape.pages;
  const memory = `memory ${shape.name}: nodes and touched root, per page`;
  // No bound for 1k dense: a thousand consecutive pages do not fill their nodes.
  if (shape.name === '1k dense') report.say(`${memory} ${format(bytes)} B`);
  else report.bound(memory, bytes, '≤', shape.run ? CLUSTERED_BYTES : DENSE_BYTES, 'B');
}

async function compareLists(
  report: Report,
  rival: Rival,
  shape: Layout,
  writer: PinTableWriter,
): Promise<void> {
  const reader = new PinTableReader(writer.handle, writer.addReader());
  const pages = new Pages(shape);
  reader.enter();
  const result = await takeTurns([
    () => timeOf(inLists, reader, pages),
    () => rival.ask(`lookup batch ${LOOKUPS}`),
  ]);
  reader.exit();
  report.say(`in lists       ${result.ns.map((ns) => format(ns).padStart(8)).join(' ')}   WebAssembly / C`);
  report.bound(`lookup ${shape.name} in lists: WebAssembly to C`, result.ratio(0, 1), '≤', LIST_BOUND);
}

/** Returns the touched bytes of a table: its nodes, and the 4 KiB pages of the root with an entry in use. */
function memoryOf({ pages, run }: Layout, nodes: number): number {
  const gibs = Math.ceil(run ? pages / run / 512 : pages / 2 ** 18);
  return nodes * layout.NODE_WORDS * 4 + Math.ceil((gibs * 4) / 4096) * 4096;
}

/**
 * Measures the same loops on 1k and 64k pages in turns. The bound is on the lookup from an IOVA. The walk alone, in
 * JavaScript and in C, grows more, because its cache misses are most of its time.
 */
async function growth(report: Report, rival: Rival): Promise<void> {
  const sides = [LAYOUTS[0] as Layout, LAYOUTS[1] as Layout].flatMap((shape) => {
    const words = mem.wordsOf(filledTable(shape).sab);
    const pages = new Pages(shape);
    const inC = async () => {
      await rival.ask(`setup ${shape.pages} ${shape.run} ${SEED}`);
      return rival.ask(`lookup radix ${LOOKUPS}`);
    };
    return [() => timeOf(fromIovas, words, pages), () => timeOf(withSites, words, pages), inC];
  });
  const result = await takeTurns(sides);
  report.bound('lookup growth from 1k to 64k dense', result.ratio(3, 0), '≤', GROWTH_BOUND);
  const [pages, radix] = [result.ratio(4, 1), result.ratio(5, 2)].map(format);
  report.say(`of the walk alone, from page numbers: ${pages} ×, in C ${radix} ×`);
}

/**
 * Measures the cost of naming each access: the production lookup against one without `#mem`, on all three dense tables.
 * The two loops have the same instructions in another order, which makes a few percent either way on a single table.
 */
async function sites(report: Report): Promise<void> {
  const ratios: number[] = [];
  for (const shape of LAYOUTS.filter(({ run }) => run === 0)) {
    const { sab } = filledTable(shape);
    const pages = new Pages(shape);
    const [words, raw] = [mem.wordsOf(sab), new Int32Array(sab)];
    const sides = [() => timeOf(withSites, words, pages), () => timeOf(withoutSites, raw, pages)];
    ratios.push((await takeTurns(sides, ROUNDS_OF_SITES)).ratio(0, 1));
  }
  const mean = ratios.reduce((product, ratio) => product * ratio, 1) ** (1 / ratios.length);
  report.say(
    `schedule points: with sites to without, dense tables ${ratios.map((r) => r.toFixed(3)).join(' ')}`,
  );
  report.bound('schedule points: lookup with sites to without', mean, '≤', SITES_BOUND);
  if (sink === 1) report.say('');
}
