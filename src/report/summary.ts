/**
 * The summary of a run: merges the VMs' results, determines the verdict, and formats the text.
 */

import type { FrameBodies } from '../proto/schema.ts';
import { colours } from './colours.ts';
import { burndownLines, metricLines, sumReports } from './device-report.ts';
import { Latencies, type LatencySummary } from './histograms.ts';

type VmResult = FrameBodies['vmResult'];
type HostResult = FrameBodies['hostResult'];

/** Exit codes of the command. */
export const ExitCode = {
  ok: 0,
  /** A violation, a wrong byte, an unannounced fault, or a lost device or VM. */
  failed: 1,
  badConfiguration: 104,
  interrupted: 105,
  scriptError: 107,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** Facts about the run itself. */
interface RunFacts {
  readonly scenario: string;
  readonly vms: number;
  /** vGPUs of each VM; if `uneven`, the largest count. */
  readonly vgpus: number;
  readonly uneven?: boolean;
  readonly processes: number;
  readonly seed: number;
  readonly inject: string;
  readonly wallSeconds: number;
}

/** A VM without a result, because its host process died. */
export interface LostVm {
  readonly vm: number;
  readonly reason: string;
}

export interface RunSummary extends RunFacts {
  readonly verdict: 'passed' | 'failed' | 'script error';
  readonly exitCode: ExitCode;
  /** One line each, the most important first. */
  readonly problems: readonly string[];
  readonly notes: readonly string[];
  readonly operations: number;
  readonly bytesVerified: number;
  readonly mismatches: number;
  readonly faultsExpected: number;
  readonly faultsUnexpected: number;
  readonly violations: number;
  readonly devicesFailed: number;
  readonly vmsLost: number;
  readonly maps: number;
  readonly unmaps: number;
  readonly switches: number;
  readonly audits: number;
  readonly devices: FrameBodies['deviceReport'];
  readonly latencies: readonly LatencySummary[];
  readonly hosts: readonly HostResult[];
}

/** Maximum count of violations shown per kind and VM. */
const VIOLATIONS_SHOWN = 3;
/** Maximum count of problems printed; the rest are counted. */
export const PROBLEM_LIMIT = 20;

/** Merges results into a summary with a verdict. */
export function summarize(
  facts: RunFacts,
  results: ReadonlyMap<number, VmResult>,
  lost: readonly LostVm[],
  hosts: readonly HostResult[],
): RunSummary {
  const all = [...results].sort(([a], [b]) => a - b).map(([, result]) => result);
  const total = (pick: (result: VmResult) => number) => all.reduce((sum, result) => sum + pick(result), 0);
  const latencies = new Latencies();
  for (const result of all) for (const { name, data } of result.histograms) latencies.merge(name, data);
  const problems = problemsOf(results, lost);
  const scriptErrors = all.filter((result) => result.scriptError !== '').length;
  const failures = problems.length - scriptErrors;
  const exitCode = failures > 0 ? ExitCode.failed : scriptErrors > 0 ? ExitCode.scriptError : ExitCode.ok;
  return {
    ...facts,
    verdict: failures > 0 ? 'failed' : scriptErrors > 0 ? 'script error' : 'passed',
    exitCode,
    problems,
    notes: all.flatMap((result) => result.notes),
    operations: total((r) => r.operations),
    bytesVerified: total((r) => r.bytesVerified),
    mismatches: total((r) => r.mismatches),
    faultsExpected: total((r) => r.faultsExpected),
    faultsUnexpected: total((r) => r.faultsUnexpected),
    violations: total((r) => r.violations.reduce((sum, v) => sum + 1 + v.repeats, 0)),
    devicesFailed: total((r) => r.failedDevices.length),
    vmsLost: lost.length,
    maps: total((r) => r.maps),
    unmaps: total((r) => r.unmaps),
    switches: total((r) => r.switches),
    audits: total((r) => r.audits),
    devices: sumReports(all.flatMap((r) => r.devices ?? [])),
    latencies: latencies.summary(),
    hosts,
  };
}

function problemsOf(results: ReadonlyMap<number, VmResult>, lost: readonly LostVm[]): string[] {
  const problems: string[] = lost.map(({ vm, reason }) => `VM ${vm} lost: ${reason}`);
  for (const [vm, result] of results) {
    problems.push(...violationLines(result.violations));
    for (const device of result.failedDevices) problems.push(`device failed: ${device}`);
    for (const failure of result.failures)
      problems.push(failure.startsWith('VM ') ? failure : `VM ${vm}: ${failure}`);
    const unlisted = result.mismatches + result.faultsUnexpected - result.failures.length;
    if (unlisted > 0) problems.push(`VM ${vm}: ${unlisted} more failed checks and faults`);
  }
  for (const [vm, { scriptError }] of results)
    if (scriptError !== '') problems.push(`VM ${vm} script: ${scriptError}`);
  return problems;
}

/** Returns the first few violations of each kind, and the count of the rest. */
function violationLines(violations: VmResult['violations']): string[] {
  const byKind = Map.groupBy(violations, ({ kind }) => kind);
  return [...byKind].flatMap(([kind, all]) => {
    const lines = all.slice(0, VIOLATIONS_SHOWN).map(({ detail }) => `violation ${kind}: ${detail}`);
    const more = all.length - lines.length + all.reduce((sum, { repeats }) => sum + repeats, 0);
    if (more > 0) lines[lines.length - 1] += ` (and ${more} more of this kind)`;
    return lines;
  });
}

const MIB = 1024 * 1024;

const bytesText = (bytes: number): string =>
  bytes >= 1024 * MIB ? `${(bytes / 1024 / MIB).toFixed(2)} GiB` : `${(bytes / MIB).toFixed(1)} MiB`;

/** Returns a duration in a suitable unit. */
const timeText = (us: number): string => {
  if (us < 1000) return `${us.toFixed(us < 10 ? 1 : 0)} µs`;
  return us < 1_000_000
    ? `${(us / 1000).toFixed(us < 10_000 ? 2 : 1)} ms`
    : `${(us / 1_000_000).toFixed(2)} s`;
};

const LATENCY_TITLES: Readonly<Record<string, string>> = {
  map: 'map',
  unmap: 'unmap',
  switch: 'switch',
  interrupt: 'doorbell→interrupt',
  downtime: 'downtime',
};

/** Returns the summary as text. */
export function summaryText(summary: RunSummary): string {
  const passed = summary.verdict === 'passed';
  const verdict = passed ? colours.green('PASSED') : colours.red(summary.verdict.toUpperCase());
  const run = `${summary.vms} VMs × ${summary.uneven ? 'up to ' : ''}${summary.vgpus} vGPUs in ${summary.processes} host process${summary.processes === 1 ? '' : 'es'}`;
  const lines = [
    `${verdict}  ${summary.scenario}: ${run}, ${summary.wallSeconds.toFixed(1)} s, seed ${summary.seed}`,
  ];
  if (summary.inject !== '') lines.push(`  injected       ${summary.inject}`);
  for (const problem of summary.problems.slice(0, PROBLEM_LIMIT))
    lines.push(`  ${colours.red('✗')} ${problem}`);
  if (summary.problems.length > PROBLEM_LIMIT)
    lines.push(`  ${colours.red('✗')} and ${summary.problems.length - PROBLEM_LIMIT} more`);
  for (const note of summary.notes.slice(0, PROBLEM_LIMIT)) lines.push(`  ${colours.dim('·')} ${note}`);
  lines.push(...countLines(summary), ...metricLines(summary.devices), ...burndownLines(summary.devices));
  lines.push(...latencyLines(summary.latencies), ...hostLines(summary));
  return `${lines.join('\n')}\n`;
}

function countLines(s: RunSummary): string[] {
  const perSecond = Math.round(s.operations / Math.max(0.001, s.wallSeconds));
  return [
    `  operations     ${s.operations} (${perSecond}/s)   maps ${s.maps}   unmaps ${s.unmaps}   switches ${s.switches}   audits ${s.audits}`,
    `  verified       ${bytesText(s.bytesVerified)}, ${s.mismatches} mismatches`,
    `  faults         ${s.faultsExpected} expected, ${s.faultsUnexpected} unexpected`,
    `  violations     ${s.violations}   devices failed ${s.devicesFailed}   VMs lost ${s.vmsLost}`,
    `  pins           ${s.devices.pins} taken, ${s.devices.unpins} dropped   stalls on a switch ${s.devices.stalls}`,
  ];
}

function latencyLines(latencies: readonly LatencySummary[]): string[] {
  if (latencies.length === 0) return [];
  const cell = (text: string) => text.padStart(10);
  const head = `${'  latency'.padEnd(23)}${'count'.padStart(8)}${['p50', 'p95', 'p99', 'max'].map(cell).join('')}`;
  const rows = latencies.map(
    ({ name, count, p50Us, p95Us, p99Us, maxUs }) =>
      `    ${(LATENCY_TITLES[name] ?? name).padEnd(19)}${String(count).padStart(8)}` +
      [p50Us, p95Us, p99Us, maxUs].map((us) => cell(timeText(us))).join(''),
  );
  return [head, ...rows];
}

function hostLines({ hosts }: RunSummary): string[] {
  const devices = hosts.reduce((sum, host) => sum + host.devices, 0);
  if (devices === 0) return [];
  const rss = hosts.reduce((sum, host) => sum + host.devicesRss, 0) / devices;
  const startMs = Math.max(...hosts.map((host) => host.devicesStartUs)) / 1000;
  const lines = [
    `  vGPU start     ${devices} in ${timeText(startMs * 1000)} (${timeText((startMs * 1000) / devices)} each), ${bytesText(rss)} each`,
  ];
  const baseline = hosts.find((host) => host.baselineWorkers > 0);
  if (baseline)
    lines.push(
      `  baseline       ${baseline.baselineWorkers} in ${timeText(baseline.baselineStartUs)} (${timeText(baseline.baselineStartUs / baseline.baselineWorkers)} each), ` +
        `${bytesText(baseline.baselineRss / baseline.baselineWorkers)} each: a vGPU takes ` +
        `${(rss / (baseline.baselineRss / baseline.baselineWorkers)).toFixed(2)} × the memory, ` +
        `${((startMs * 1000) / devices / (baseline.baselineStartUs / baseline.baselineWorkers)).toFixed(2)} × the time`,
    );
  const dropped = hosts.reduce((sum, host) => sum + host.traceDropped, 0);
  if (dropped > 0) lines.push(`  trace          ${dropped} frames dropped: the file reached its limit`);
  return lines;
}
