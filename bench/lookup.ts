/**
 * One random lookup among many mapped 4 KiB pages: this table, the same radix in C, and the trees others use.
 */
import * as mem from '#mem';
import * as layout from '../src/pin-table/layout.ts';
import * as walk from '../src/pin-table/walk.ts';
import * as bare from './bare-lookup.ts';
import { format, type Report, takeTurns } from './report.ts';
import type { Rival } from './rival.ts';
import { CLUSTER, filledTable, type Layout, queriesOf, SEED, splitOf, timed } from './tables.ts';

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

/** Accepted ratios to the radix in C, by layout. */
const RADIX_BOUND: Readonly<Record<string, number>> = { '1k dense': 2.5, '64k dense': 1.5, '1M dense': 1.5 };
/** How many times faster than the trees. */
const TREE_BOUND: Readonly<Record<string, number>> = { '1k dense': 10, '64k dense': 50 };
const GROWTH_BOUND = 1.3;
const DENSE_BYTES = 10;
const CLUSTERED_BYTES = 100;
const SITES_BOUND = 1.02;
/** A bound of 2 % needs more rounds. */
const ROUNDS_OF_SITES = 101;

let sink = 0;

/** From a double, the split included. */
function fromDoubles(words: mem.SharedWords, queries: Float64Array): void {
  let sum = 0;
  for (let i = 0; i < LOOKUPS; i++) sum = (sum + lookup(words, queries[i] as number)) | 0;
  sink ^= sum;
}

/** As a device's DMA does it: the IOVA split into GiB and the rest, both int32. */
function withSites(words: mem.SharedWords, queries: Int32Array): void {
  let sum = 0;
  for (let i = 0; i < LOOKUPS; i++)
    sum = (sum + lookupAt(words, queries[2 * i] as number, queries[2 * i + 1] as number)) | 0;
  sink ^= sum;
}

function withoutSites(words: Int32Array, queries: Int32Array): void {
  let sum = 0;
  for (let i = 0; i < LOOKUPS; i++)
    sum = (sum + bareLookupAt(words, queries[2 * i] as number, queries[2 * i + 1] as number)) | 0;
  sink ^= sum;
}

export async function benchLookup(report: Report, rival: Rival): Promise<void> {
  report.say(
    `lookup: ns per random lookup, JS / C radix / C red-black tree / JS from a double${rival.hasGlib ? ' / GTree' : ''}`,
  );
  if (!rival.hasGlib) report.say('GTree skipped: no headers of GLib here (pkg-config glib-2.0)');
  for (const shape of LAYOUTS) await compare(report, rival, shape);
  await growth(report);
  await sites(report);
}

async function compare(report: Report, rival: Rival, shape: Layout): Promise<void> {
  const writer = filledTable(shape);
  const doubles = queriesOf(shape);
  const queries = splitOf(doubles);
  const words = mem.wordsOf(writer.sab);
  await rival.ask(`setup ${shape.pages} ${shape.run} ${SEED}`);
  const sides = [
    () => timed(LOOKUPS, () => withSites(words, queries)),
    () => rival.ask(`lookup radix ${LOOKUPS}`),
    () => rival.ask(`lookup rb ${TREE_LOOKUPS}`),
    () => timed(LOOKUPS, () => fromDoubles(words, doubles)),
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
  const bytes = memoryOf(shape, writer.nodesInUse) / shape.pages;
  const memory = `memory ${shape.name}: nodes and touched root, a page`;
  // A thousand pages in a row do not fill the nodes they need: no bound there.
  if (shape.name === '1k dense') report.say(`${memory} ${format(bytes)} B`);
  else report.bound(memory, bytes, '≤', shape.run ? CLUSTERED_BYTES : DENSE_BYTES, 'B');
}

/** Bytes of a table that are touched: its nodes, and the 4 KiB pages of the root with an entry in use. */
function memoryOf({ pages, run }: Layout, nodes: number): number {
  const gibs = Math.ceil(run ? pages / run / 512 : pages / 2 ** 18);
  return nodes * layout.NODE_WORDS * 4 + Math.ceil((gibs * layout.ENTRY_WORDS * 4) / 4096) * 4096;
}

/** The same loop on 1k and 64k pages in turns. */
async function growth(report: Report): Promise<void> {
  const sides = [LAYOUTS[0] as Layout, LAYOUTS[1] as Layout].map((shape) => {
    const writer = filledTable(shape);
    const words = mem.wordsOf(writer.sab);
    const queries = splitOf(queriesOf(shape));
    return () => timed(LOOKUPS, () => withSites(words, queries));
  });
  report.bound('lookup growth from 1k to 64k dense', (await takeTurns(sides)).ratio(1, 0), '≤', GROWTH_BOUND);
}

/** What naming each access costs: the production kernel beside one without `#mem`. */
async function sites(report: Report): Promise<void> {
  const shape = LAYOUTS[0] as Layout;
  const { sab } = filledTable(shape);
  const queries = splitOf(queriesOf(shape));
  const [words, raw] = [mem.wordsOf(sab), new Int32Array(sab)];
  const result = await takeTurns(
    [
      () => timed(LOOKUPS, () => withSites(words, queries)),
      () => timed(LOOKUPS, () => withoutSites(raw, queries)),
    ],
    ROUNDS_OF_SITES,
  );
  report.bound('schedule points: lookup with sites to without', result.ratio(0, 1), '≤', SITES_BOUND);
  if (sink === 1) report.say('');
}
