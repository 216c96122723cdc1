/**
 * Results of the single VMs and their vGPUs: for the JSON summary, and as a table.
 */
import type { FrameBodies } from '../proto/schema.ts';
import { Latencies, type LatencySummary } from './histograms.ts';
import { counted, timeText } from './text.ts';

type VmResult = FrameBodies['vmResult'];
type VgpuResult = VmResult['vgpus'][number];

/** One device of a VM. Times are engine time. */
export interface VgpuSummary {
  readonly name: string;
  readonly model: string;
  /** Type of the vGPU; empty for a device without a physical GPU. */
  readonly type: string;
  /** Number of its physical GPU in its host process; null for a device without one. */
  readonly gpu: number | null;
  /** Its part of the engine under fixed-share. */
  readonly share: number;
  /** The part of the engine's time that it has used. */
  readonly used: number;
  readonly operations: number;
  readonly busyUs: number;
  readonly waitedUs: number;
  readonly preemptions: number;
  readonly latencies: readonly LatencySummary[];
  /** The device's own counters; null if it did not report. */
  readonly counters: FrameBodies['deviceReport'] | null;
  /** Why it failed, or empty. */
  readonly failure: string;
}

/** One VM. */
export interface VmSummary {
  readonly vm: number;
  readonly operations: number;
  readonly bytesVerified: number;
  readonly mismatches: number;
  readonly checksFailed: number;
  readonly faultsExpected: number;
  readonly faultsUnexpected: number;
  readonly violations: number;
  readonly scriptError: string;
  readonly interrupted: boolean;
  readonly latencies: readonly LatencySummary[];
  readonly vgpus: readonly VgpuSummary[];
}

/** Count of violations, with those that have no text of their own. */
export const violationCount = ({ violations }: VmResult): number =>
  violations.reduce((sum, { repeats }) => sum + 1 + repeats, 0);

/** Adds histograms to `latencies`; leaves out bytes that are no histogram. */
export function mergeAll(latencies: Latencies, histograms: VmResult['histograms']): Latencies {
  for (const { name, data } of histograms)
    try {
      latencies.merge(name, data);
    } catch {
      // A script may have sent anything.
    }
  return latencies;
}

export const vmSummary = (vm: number, result: VmResult): VmSummary => ({
  vm,
  operations: result.operations,
  bytesVerified: result.bytesVerified,
  mismatches: result.mismatches,
  checksFailed: result.checksFailed,
  faultsExpected: result.faultsExpected,
  faultsUnexpected: result.faultsUnexpected,
  violations: violationCount(result),
  scriptError: result.scriptError,
  interrupted: result.interrupted,
  latencies: mergeAll(new Latencies(), result.histograms).summary(),
  vgpus: result.vgpus.map(vgpuSummary),
});

const MILLION = 1_000_000;
const PART_DIGITS = 4;

const vgpuSummary = (result: VgpuResult): VgpuSummary => ({
  name: result.name,
  model: result.model.startsWith('file:') ? 'file' : result.model,
  type: result.type,
  gpu: result.gpu === 0 ? null : result.gpu - 1,
  share: result.sharePpm / MILLION,
  used: Number((result.busyUs / Math.max(1, result.clockUs)).toFixed(PART_DIGITS)),
  operations: result.operations,
  busyUs: result.busyUs,
  waitedUs: result.waitedUs,
  preemptions: result.preemptions,
  latencies: mergeAll(new Latencies(), result.histograms).summary(),
  counters: result.report ?? null,
  failure: result.failure,
});

/** Maximum count of rows of the table; the JSON summary has all. */
const ROWS_SHOWN = 24;

/** A row of the table: the texts of its cells. */
type Row = readonly [
  name: string,
  operations: string,
  type: string,
  gpu: string,
  share: string,
  used: string,
  p50: string,
  p99: string,
];

/** Widths of the columns: 80 with the indentation. */
const WIDTHS = [17, 11, 10, 5, 8, 8, 10, 9] as const;
const HEAD: Row = ['VM and vGPU', 'operations', 'type', 'GPU', 'share', 'used', 'p50', 'p99'];

/** Returns the table of VMs and vGPUs, with their latencies from doorbell to interrupt. Empty for a single vGPU. */
export function vmLines(vms: readonly VmSummary[]): string[] {
  const rows = vms.flatMap((vm) => [vmRow(vm), ...vm.vgpus.map(vgpuRow)]);
  if (rows.length <= 2) return [];
  const lines = [HEAD, ...rows.slice(0, ROWS_SHOWN)].map((row) =>
    `  ${row.map((text, i) => (i === 0 ? text.padEnd(WIDTHS[i]) : text.padStart(WIDTHS[i] as number))).join('')}`.trimEnd(),
  );
  const more = rows.length - ROWS_SHOWN;
  return more > 0 ? [...lines, `    and ${counted(more, 'more row')}; --json prints all`] : lines;
}

const vmRow = ({ vm, operations, latencies }: VmSummary): Row => [
  `vm${vm}`,
  String(operations),
  '',
  '',
  '',
  '',
  ...interruptCells(latencies),
];

const vgpuRow = ({ name, model, operations, type, gpu, share, used, latencies }: VgpuSummary): Row => [
  `  ${name}`,
  String(operations),
  type === '' ? model : type,
  gpu === null ? '' : String(gpu),
  type === '' ? '' : percent(share),
  type === '' ? '' : percent(used),
  ...interruptCells(latencies),
];

const percent = (part: number): string => `${(part * 100).toFixed(1)} %`;

function interruptCells(latencies: readonly LatencySummary[]): [string, string] {
  const interrupt = latencies.find(({ name }) => name === 'interrupt');
  return interrupt ? [timeText(interrupt.p50Us), timeText(interrupt.p99Us)] : ['', ''];
}
