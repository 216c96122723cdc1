/**
 * The rows of the vGPUs in the report: activity, engine shares and address spaces.
 */
import { jainIndex } from '../../gpu/stats.ts';
import type { Activity } from '../../metrics/activity-grid.ts';
import { thinned } from '../../metrics/address-space-strip.ts';
import type { RunRecord, VgpuTimeline } from '../record.ts';
import { encodeCells } from './cells.ts';
import type { HeatLayer, PageModel, StripRow } from './page-model.ts';

type Rows = Pick<PageModel, 'vgpus' | 'heat' | 'gpus' | 'strips'>;
type Cells = readonly (number | null)[];

/** Maximum count of vGPUs with rows of their own. */
export const ROWS_LIMIT = 1536;
/** Segments of all strips together, and limits of those of one; the same for switches. */
const SEGMENTS = 6144;
const SEGMENTS_MAX = 160;
const SEGMENTS_MIN = 3;
const SWITCHES = 2048;
const SWITCHES_MAX = 32;
/** Kinds of address spaces, which the data name by their index. */
const KINDS = ['blocked', 'system', 'iommu'];
const KIB = 1024;
const PERCENT = 100;
const MICRO = 1e6;

/** Returns the rows of a run's vGPUs. */
export function deviceRows(record: Pick<RunRecord, 'timelines' | 'results' | 'processes' | 'vms'>): Rows {
  const timelines = record.timelines.slice(0, ROWS_LIMIT);
  return {
    vgpus: timelines.map(({ name }) => name),
    heat: heatOf(timelines.map(({ activity }) => activity)),
    gpus: gpusOf(record),
    strips: timelines.some(({ addressSpace }) => addressSpace.segments.length > 0)
      ? timelines.map((timeline) => stripRow(timeline, timelines.length))
      : [],
  };
}

function heatOf(rows: readonly (Activity | null)[]): PageModel['heat'] {
  const seconds = rows.find((row) => row !== null)?.seconds;
  if (seconds === undefined) return null;
  return {
    seconds,
    layers: LAYERS.map(({ name, unit, of }) =>
      layerOf(
        name,
        unit,
        rows.map((row) => (row ? of(row) : [])),
      ),
    ).filter((layer) => layer !== undefined),
  };
}

interface LayerSource {
  readonly name: string;
  readonly unit: HeatLayer['unit'];
  of(activity: Activity): Cells;
}

const LAYERS: readonly LayerSource[] = [
  { name: 'mean latency', unit: 'time', of: ({ avgUs }) => avgUs },
  { name: 'longest latency', unit: 'time', of: ({ maxUs }) => maxUs },
  {
    name: 'commands/s',
    unit: 'count',
    of: ({ commands, seconds }) => commands.map((count) => (count === null ? null : count / seconds)),
  },
  { name: 'use of the engine', unit: 'ratio', of: ({ engine }) => engine },
];

/** Least value that a layer tells from 0. */
const LEAST: Readonly<Record<HeatLayer['unit'], number>> = { time: 0.1, count: 0.1, ratio: 0.001 };

/** Returns a layer; undefined if it has no value. */
function layerOf(name: string, unit: HeatLayer['unit'], rows: readonly Cells[]): HeatLayer | undefined {
  let [min, max] = [Number.POSITIVE_INFINITY, 0];
  for (const row of rows)
    for (const value of row)
      if (value !== null) {
        min = Math.min(min, Math.max(value, LEAST[unit]));
        max = Math.max(max, value, LEAST[unit]);
      }
  if (max === 0) return undefined;
  return { name, unit, min, max, rows: rows.map((row) => encodeCells(row, min, max)) };
}

/** Returns the vGPUs by physical GPU. GPUs are numbered in each host process. */
function gpusOf({
  results,
  processes,
  vms,
}: Pick<RunRecord, 'results' | 'processes' | 'vms'>): PageModel['gpus'] {
  const all = results.flatMap(({ vm, vgpus }) => {
    const host = Math.floor((vm * processes) / Math.max(1, vms));
    const place = processes > 1 ? `host ${host} ` : '';
    return vgpus.flatMap((vgpu) =>
      vgpu.gpu === null ? [] : [{ ...vgpu, place: `${place}GPU ${vgpu.gpu}` }],
    );
  });
  return [...Map.groupBy(all, ({ place }) => place)].map(([name, vgpus]) => {
    const busyUs = vgpus.reduce((sum, vgpu) => sum + vgpu.busyUs, 0);
    const shared = vgpus.filter(({ share }) => share > 0);
    return {
      name,
      fairness:
        shared.length > 0 && busyUs > 0 ? jainIndex(shared.map((vgpu) => vgpu.busyUs / vgpu.share)) : null,
      vgpus: vgpus.map((vgpu) => ({
        name: vgpu.name,
        type: vgpu.type,
        used: rounded(vgpu.used),
        part: busyUs > 0 ? rounded(vgpu.busyUs / busyUs) : 0,
      })),
    };
  });
}

const rounded = (part: number): number => Number(part.toFixed(4));

const bounded = (all: number, rows: number, min: number, max: number): number =>
  Math.min(max, Math.max(min, Math.floor(all / rows)));

function stripRow({ addressSpace }: VgpuTimeline, rows: number): StripRow {
  const { segments } = thinned(addressSpace, bounded(SEGMENTS, rows, SEGMENTS_MIN, SEGMENTS_MAX));
  const half = bounded(SWITCHES, rows, 2, SWITCHES_MAX) / 2;
  const { switches } = addressSpace;
  const shown =
    switches.length > 2 * half
      ? [...switches.slice(0, Math.ceil(half)), ...switches.slice(-Math.floor(half))]
      : switches;
  const part = (us: number, of: number) => (of === 0 ? 0 : Math.round((us / of) * PERCENT));
  return {
    start: (segments[0]?.startUs ?? 0) / MICRO,
    segments: segments.flatMap(({ us, gpaUs, gpaBytes, iovaUs, iovaBytes, switches: count }) => [
      us,
      part(gpaUs, us),
      part(iovaUs, us),
      Math.round(gpaBytes / KIB),
      Math.round(iovaBytes / KIB),
      count,
    ]),
    switches: shown.map(({ from, to, startUs, removedUs, tookUs, bytesBefore, bytesAfter }) => [
      KINDS.indexOf(from),
      KINDS.indexOf(to),
      startUs,
      removedUs,
      tookUs,
      Math.round(bytesBefore / KIB),
      Math.round(bytesAfter / KIB),
    ]),
    switchCount: segments.reduce((sum, segment) => sum + segment.switches, 0),
  };
}
