/**
 * Declared load: closed loops of the `constant-vus` executor, whose iterations are single fills, compared with bare rings
 * that run the same commands; and what measuring costs.
 */
import { Opcode } from '../src/abi/vgpu/vgpu.ts';
import { BUFFER_BYTES } from '../src/load/buffers.ts';
import { type LoadResult, shapeOf, startLoad } from './load-run.ts';
import { median, type Report } from './report.ts';
import { commandRate, startFleet } from './vgpu.ts';
import type { ThreadedVgpu } from './vgpu-rig.ts';

const VUS = 8;
/** Counts of vGPUs, and the length of a run of each: the code of every thread must be compiled before its end. */
const SIZES = [
  { vgpus: 1, seconds: 6 },
  { vgpus: 16, seconds: 12 },
  { vgpus: 128, seconds: 40 },
] as const;
/** Seconds at the end of a run that count. */
const TAIL_SECONDS = 3;
const ROUNDS = 3;
const GENERATOR_BOUND = 0.25;
const SIZE_BOUND = 0.8;

/** Pairs of stages with and without measuring, and their times. */
const PAIRS = 16;
const WARM_MS = 8000;
const STAGE_MS = 400;
/** Start and end of a stage that do not count. */
const EDGE_MS = 50;
/** The last iterations of a stage may end late on a busy machine; their VUs keep their buffers so long. */
const GRACE = '2s';
const MEASURING_RAM_MIB = 256;
const MEASURING_VGPUS = 16;
const MEASURING_BOUND = 0.95;

const fill = (stage: object) => ({
  executor: 'constant-vus',
  vus: VUS,
  workload: 'fill',
  verify: 0,
  ...stage,
});

/** Returns the commands per second of a closed loop, from the end of a run. */
async function loadRate({ vgpus, seconds }: (typeof SIZES)[number]): Promise<number> {
  const scenario = {
    name: `bench-load-${vgpus}`,
    viommu: 'none',
    ...shapeOf(vgpus),
    load: { fill: fill({ duration: `${seconds}s` }) },
  };
  const { metrics } = (await startLoad('load.json', JSON.stringify(scenario)).result).load;
  const commands = metrics.find(({ name, tags }) => name === 'commands' && tags.stage === 'fill');
  const tail = commands?.series.count.slice(seconds - 1 - TAIL_SECONDS, seconds - 1) ?? [];
  if (tail.length !== TAIL_SECONDS) throw new Error('the run has too few seconds with commands');
  return tail.reduce<number>((sum, count) => sum + (count ?? 0), 0) / TAIL_SECONDS;
}

interface Rates {
  readonly load: number[];
  readonly bare: number[];
}

/** Measures each size in turns with its bare rings, before and after the run. */
async function measureRates(): Promise<Rates[]> {
  const fleets: ThreadedVgpu[][] = [];
  for (const { vgpus } of SIZES)
    fleets.push(await startFleet(vgpus, { opcode: Opcode.fill, length: BUFFER_BYTES }));
  const rates = SIZES.map((): Rates => ({ load: [], bare: [] }));
  for (let round = 0; round < ROUNDS; round++)
    for (const [i, size] of SIZES.entries()) {
      const before = await commandRate(fleets[i]!);
      rates[i]!.load.push(await loadRate(size));
      rates[i]!.bare.push((before + (await commandRate(fleets[i]!))) / 2);
    }
  await Promise.all(fleets.flat().map((gpu) => gpu.stop()));
  return rates;
}

async function benchRates(report: Report): Promise<void> {
  const rates = await measureRates();
  for (const [i, { vgpus }] of SIZES.entries()) {
    const { load, bare } = rates[i]!;
    report.say(
      `load: ${vgpus} vGPUs fill ${BUFFER_BYTES / 1024} KiB: ${VUS} VUs on each ${Math.round(median(load))} commands/s, ` +
        `bare rings ${Math.round(median(bare))}`,
    );
    const ratio = median(load.map((rate, round) => rate / bare[round]!));
    report.bound(`load: ${vgpus} vGPUs, generator to bare rings`, ratio, '≥', GENERATOR_BOUND);
  }
  const [, small, large] = rates as [Rates, Rates, Rates];
  for (const [side, name] of [
    ['load', 'generator'],
    ['bare', 'bare rings'],
  ] as const) {
    const ratio = median(large[side].map((rate, round) => rate / small[side][round]!));
    report.bound(`load: 128 vGPUs to 16, ${name}`, ratio, '≥', SIZE_BOUND);
  }
}

/** Stages by turns measured and not, on warm vGPUs. */
const measuringStages = (): object =>
  Object.fromEntries([
    ['warm', fill({ duration: `${WARM_MS}ms`, gracefulStop: GRACE, measured: false })],
    ...Array.from({ length: 2 * PAIRS }, (_, i) => [
      `stage${i}`,
      fill({
        startTime: `${WARM_MS + i * STAGE_MS}ms`,
        duration: `${STAGE_MS}ms`,
        gracefulStop: GRACE,
        measured: i % 2 === 0,
      }),
    ]),
  ]);

/**
 * Returns a scenario whose script counts the operations of each stage, measured or not, beside the load. It reports the
 * median of the pairs' ratios.
 */
const measuringScenario = (): string => `
import { scenario } from 'mdevsim';
const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
export default scenario({
  name: 'bench-measuring',
  viommu: 'none',
  ramMiB: ${MEASURING_RAM_MIB},
  ...${JSON.stringify(shapeOf(MEASURING_VGPUS))},
  load: ${JSON.stringify(measuringStages())},
  async guest(vm) {
    const start = performance.now();
    const until = async (ms) => {
      while (performance.now() - start < ms) await vm.sleep(1);
      return [performance.now(), vm.operations];
    };
    const rates = [];
    for (let i = 0; i < ${2 * PAIRS}; i++) {
      const at = ${WARM_MS} + i * ${STAGE_MS};
      const [t0, n0] = await until(at + ${EDGE_MS});
      const [t1, n1] = await until(at + ${STAGE_MS - EDGE_MS});
      rates.push((n1 - n0) / (t1 - t0));
    }
    const ratios = Array.from({ length: ${PAIRS} }, (_, i) => rates[2 * i] / rates[2 * i + 1]);
    vm.metrics.gauge('measured_to_not').add(median(ratios));
  },
});
`;

const gaugeOf = ({ load }: LoadResult, name: string): number =>
  load.metrics.find((metric) => metric.name === name)?.values.value ?? Number.NaN;

async function benchMeasuring(report: Report): Promise<void> {
  const ratios: number[] = [];
  for (let round = 0; round < ROUNDS; round++)
    ratios.push(gaugeOf(await startLoad('measuring.mjs', measuringScenario()).result, 'measured_to_not'));
  report.bound('load: rate with measuring to without', median(ratios), '≥', MEASURING_BOUND);
}

export async function benchLoad(report: Report): Promise<void> {
  await benchMeasuring(report);
  await benchRates(report);
}
