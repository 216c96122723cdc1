/**
 * Pins and unpins of random pages and of runs of pages: in WebAssembly, as devices use it, in JavaScript, and with the
 * same steps in C.
 */
import { PAGE_SIZE } from '../src/memory/address.ts';
import { PinTableReader } from '../src/pin-table/reader.ts';
import { format, type Report, takeTurns } from './report.ts';
import type { Rival } from './rival.ts';
import { filledTable, type Layout, QUERIES, queriesOf, SEED, timed } from './tables.ts';

const PINS = 2 ** 18;
const PIN_BOUND = 1.25;
const LAYOUTS: readonly Layout[] = [
  { name: '1k dense', pages: 1024, run: 0 },
  { name: '64k dense', pages: 65536, run: 0 },
];
const RUN_LAYOUTS: readonly Layout[] = [...LAYOUTS, { name: '1M dense', pages: 1048576, run: 0 }];
/** Pages of a run, as in bench/c/rival.c. */
const RUN_PAGES = 64;
/** Rounds before the measurement: V8 compiles a kernel again, in the background, when it has been called often. */
const WARM_ROUNDS = 20;
const RUN_BYTES = RUN_PAGES * PAGE_SIZE;

// One function for each side: V8 would compile a shared one for two kinds of reader, which is slower for both.
function pinsInWasm(reader: PinTableReader, queries: Float64Array): void {
  for (let i = 0; i < PINS; i++) {
    const iova = queries[i & (QUERIES - 1)] as number;
    if (reader.pin(iova, 3) < 0 || !reader.unpin(iova)) throw new Error('a pin was refused');
  }
}
function pinsInJs(reader: PinTableReader, queries: Float64Array): void {
  for (let i = 0; i < PINS; i++) {
    const iova = queries[i & (QUERIES - 1)] as number;
    if (reader.pin(iova, 3) < 0 || !reader.unpin(iova)) throw new Error('a pin was refused');
  }
}
function runsInWasm(reader: PinTableReader, queries: Float64Array): void {
  for (let i = 0; i < PINS; i += RUN_PAGES) {
    const iova = Math.floor((queries[i & (QUERIES - 1)] as number) / RUN_BYTES) * RUN_BYTES;
    const pinned = reader.pinRun(iova, RUN_PAGES, 3);
    if (pinned < RUN_PAGES || reader.unpinRun(iova, pinned) < pinned) throw new Error('a run was refused');
  }
}
function sections(reader: PinTableReader): void {
  for (let i = 0; i < PINS; i++) {
    reader.enter();
    reader.exit();
  }
}

export async function benchPin(report: Report, rival: Rival): Promise<void> {
  report.say('pin: ns per pin and unpin, each in its section, WebAssembly / JavaScript / C');
  for (const shape of LAYOUTS) {
    const writer = filledTable(shape);
    const wasm = new PinTableReader(writer.handle, writer.addReader());
    const js = new PinTableReader(writer.sab, writer.addReader());
    const queries = queriesOf(shape);
    await rival.ask(`setup ${shape.pages} ${shape.run} ${SEED}`);
    const result = await takeTurns([
      () => timed(PINS, () => pinsInWasm(wasm, queries)),
      () => timed(PINS, () => pinsInJs(js, queries)),
      () => rival.ask(`pin ${PINS}`),
    ]);
    report.say(`${shape.name.padEnd(14)} ${result.ns.map((ns) => format(ns).padStart(8)).join(' ')}`);
    report.bound(`pin ${shape.name}: WebAssembly to C`, result.ratio(0, 2), '≤', PIN_BOUND);
    report.say(`pin ${shape.name}: JavaScript to WebAssembly ${format(result.ratio(1, 0))} ×`);
    const empty = await takeTurns([
      () => timed(PINS, () => sections(wasm)),
      () => timed(PINS, () => sections(js)),
    ]);
    report.say(`an empty section: ${empty.ns.map(format).join(' ns in WebAssembly, ')} ns in JavaScript`);
  }
  await benchRuns(report, rival);
}

async function benchRuns(report: Report, rival: Rival): Promise<void> {
  report.say(`pin: ns per page of a run of ${RUN_PAGES} pages, pin and unpin, WebAssembly / C`);
  for (const shape of RUN_LAYOUTS) {
    const writer = filledTable(shape);
    const reader = new PinTableReader(writer.handle, writer.addReader());
    const queries = queriesOf(shape);
    await rival.ask(`setup ${shape.pages} ${shape.run} ${SEED}`);
    for (let i = 0; i < WARM_ROUNDS; i++) runsInWasm(reader, queries);
    const result = await takeTurns([
      () => timed(PINS, () => runsInWasm(reader, queries)),
      () => rival.ask(`pinrun ${PINS}`),
    ]);
    report.say(`${shape.name.padEnd(14)} ${result.ns.map((ns) => format(ns).padStart(8)).join(' ')}`);
    report.bound(`pin runs ${shape.name}: WebAssembly to C`, result.ratio(0, 1), '≤', PIN_BOUND);
  }
}
