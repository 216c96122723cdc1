/**
 * The summary of a run: merges the VMs' results, determines the verdict, and formats the text.
 */

import type { FrameBodies } from '../proto/schema.ts';
import { colours } from './colours.ts';
import { burndownLines, metricLines, sumReports } from './device-report.ts';
import { Latencies, type LatencySummary } from './histograms.ts';
import {
  type EventResult,
  eventLines,
  type LoadReport,
  NO_LOAD,
  stageLines,
  thresholdLines,
} from './load-report.ts';
import { COLUMNS, counted, oneLine, timeText, titledLines } from './text.ts';
import { mergeAll, type VmSummary, violationCount, vmLines, vmSummary } from './vm-summary.ts';

type VmResult = FrameBodies['vmResult'];
type HostResult = FrameBodies['hostResult'];

/** Exit codes of the command. {@link EXIT_MEANINGS} has the meaning of each. */
export const ExitCode = {
  ok: 0,
  failed: 1,
  thresholds: 99,
  badConfiguration: 104,
  interrupted: 105,
  scriptError: 107,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** Meaning of each exit code, in the order of its weight: a run that deserves several codes has the last one. */
export const EXIT_MEANINGS: Readonly<Record<keyof typeof ExitCode, string>> = {
  ok: 'passed',
  badConfiguration: 'not started: the command line, the scenario or the machine does not allow the run',
  thresholds: 'a threshold was not met, or a rate was missed',
  scriptError: 'a script threw or did not end in time, or an event of the scenario failed',
  failed: 'wrong: a violation, a wrong byte, an unannounced fault, or a lost device or VM',
  interrupted: 'interrupted by a signal',
};

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
  /** Folder of the files that scripts have written; empty if they have written none there. */
  readonly folder: string;
  /** True if a signal has ended the run. */
  readonly interrupted?: boolean;
}

type Verdict = 'passed' | 'failed' | 'script error' | 'thresholds not met' | 'interrupted';

/** A VM without a result, because its host process died. */
export interface LostVm {
  readonly vm: number;
  readonly reason: string;
}

/** Version of the JSON summary. It changes when a field is removed or changes its meaning. */
const SUMMARY_VERSION = 1;

export interface RunSummary extends Omit<RunFacts, 'interrupted'> {
  readonly version: number;
  readonly verdict: Verdict;
  readonly exitCode: ExitCode;
  /** One line each, the most important first. */
  readonly problems: readonly string[];
  readonly notes: readonly string[];
  /** Count of notes beyond the limits. */
  readonly notesCut: number;
  readonly operations: number;
  readonly bytesVerified: number;
  /** Count of compared pages with a wrong byte. */
  readonly mismatches: number;
  /** Count of failed checks of conditions. */
  readonly checksFailed: number;
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
  /** Metrics and thresholds. */
  readonly load: LoadReport;
  /** The VMs one by one, with their vGPUs. */
  readonly results: readonly VmSummary[];
}

/** Maximum count of violations shown per kind and VM. */
const VIOLATIONS_SHOWN = 3;
/** Maximum count of problems printed; the rest are counted. */
export const PROBLEM_LIMIT = 20;

/** Merges results into a summary with a verdict. */
export function summarize(
  { interrupted, ...facts }: RunFacts,
  results: ReadonlyMap<number, VmResult>,
  lost: readonly LostVm[],
  hosts: readonly HostResult[],
  load: LoadReport = NO_LOAD,
): RunSummary {
  const sorted = [...results].sort(([a], [b]) => a - b);
  const all = sorted.map(([, result]) => result);
  const total = (pick: (result: VmResult) => number) => all.reduce((sum, result) => sum + pick(result), 0);
  const problems = problemsOf(new Map(sorted), lost, load);
  // An event that could not be is an error of the scenario.
  const scriptErrors =
    all.filter((result) => result.scriptError !== '').length +
    load.events.filter(hasFailed).length +
    load.conflicts.length;
  const failures = problems.length - scriptErrors;
  const isInterrupted = interrupted === true || all.some((result) => result.interrupted);
  return {
    version: SUMMARY_VERSION,
    ...facts,
    ...verdictOf(isInterrupted, failures, scriptErrors, load),
    problems,
    notes: all.flatMap((result) => result.notes),
    notesCut: total((r) => r.notesCut),
    operations: total((r) => r.operations),
    bytesVerified: total((r) => r.bytesVerified),
    mismatches: total((r) => r.mismatches),
    checksFailed: total((r) => r.checksFailed),
    faultsExpected: total((r) => r.faultsExpected),
    faultsUnexpected: total((r) => r.faultsUnexpected),
    violations: total(violationCount),
    devicesFailed: total((r) => r.failedDevices.length),
    vmsLost: lost.length,
    maps: total((r) => r.maps),
    unmaps: total((r) => r.unmaps),
    switches: total((r) => r.switches),
    audits: total((r) => r.audits),
    devices: sumReports(all.flatMap((r) => r.devices ?? [])),
    latencies: all.reduce((sum, { histograms }) => mergeAll(sum, histograms), new Latencies()).summary(),
    hosts,
    load,
    results: sorted.map(([vm, result]) => vmSummary(vm, result)),
  };
}

/**
 * Returns verdict and exit code. A failure counts more than a script's error, that more than a threshold, and an
 * interruption most.
 */
function verdictOf(
  interrupted: boolean,
  failures: number,
  scriptErrors: number,
  { thresholds }: LoadReport,
): { readonly verdict: Verdict; readonly exitCode: ExitCode } {
  if (interrupted) return { verdict: 'interrupted', exitCode: ExitCode.interrupted };
  if (failures > 0) return { verdict: 'failed', exitCode: ExitCode.failed };
  if (scriptErrors > 0) return { verdict: 'script error', exitCode: ExitCode.scriptError };
  if (thresholds.some(({ ok }) => !ok))
    return { verdict: 'thresholds not met', exitCode: ExitCode.thresholds };
  return { verdict: 'passed', exitCode: ExitCode.ok };
}

const hasFailed = ({ error }: EventResult): boolean => error !== '';

function problemsOf(
  results: ReadonlyMap<number, VmResult>,
  lost: readonly LostVm[],
  { events, conflicts }: LoadReport,
): string[] {
  const problems: string[] = lost.map(({ vm, reason }) => `VM ${vm} lost: ${reason}`);
  for (const [vm, result] of results) {
    problems.push(...violationLines(result.violations));
    for (const device of result.failedDevices) problems.push(`device failed: ${device}`);
    for (const failure of result.failures)
      problems.push(failure.startsWith('VM ') ? failure : `VM ${vm}: ${failure}`);
    const found = result.mismatches + result.checksFailed + result.faultsUnexpected;
    const unlisted = found - result.failures.length;
    if (unlisted > 0) problems.push(`VM ${vm}: ${unlisted} more wrong pages, failed checks and faults`);
  }
  for (const [vm, { scriptError }] of results)
    if (scriptError !== '') problems.push(`VM ${vm} script: ${scriptError}`);
  problems.push(...conflicts);
  for (const { seconds, action, error } of events.filter(hasFailed))
    problems.push(`event at ${seconds} s, ${action}: ${error}`);
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
  const lines = headLines(verdict, summary);
  if (summary.inject !== '') lines.push(`  injected       ${summary.inject}`);
  for (const problem of summary.problems.slice(0, PROBLEM_LIMIT))
    lines.push(`  ${colours.red('✗')} ${oneLine(problem)}`);
  if (summary.problems.length > PROBLEM_LIMIT)
    lines.push(`  ${colours.red('✗')} and ${summary.problems.length - PROBLEM_LIMIT} more`);
  lines.push(...thresholdLines(summary.load), ...noteLines(summary));
  lines.push(...countLines(summary), ...metricLines(summary.devices), ...burndownLines(summary.devices));
  lines.push(...eventLines(summary.load));
  lines.push(...stageLines(summary.load), ...latencyLines(summary.latencies), ...vmLines(summary.results));
  lines.push(...hostLines(summary), ...traceLines(summary));
  if (summary.folder !== '') lines.push(`  files          ${oneLine(summary.folder)}`);
  return `${lines.join('\n')}\n`;
}

/** Returns verdict, name and size of the run: in one line if 80 columns have room for it. */
function headLines(coloured: string, summary: RunSummary): string[] {
  const { scenario, vms, vgpus, uneven, processes, wallSeconds, seed } = summary;
  const size = `${counted(vms, 'VM')} × ${uneven ? 'up to ' : ''}${counted(vgpus, 'vGPU')}`;
  const run = `${size} in ${counted(processes, 'host process', 'host processes')}, ${wallSeconds.toFixed(1)} s, seed ${seed}`;
  const head = `  ${oneLine(scenario)}:`;
  const isLong = summary.verdict.length + head.length + 1 + run.length > COLUMNS;
  return isLong ? [`${coloured}${head}`, `  ${run}`] : [`${coloured}${head} ${run}`];
}

function noteLines({ notes, notesCut }: RunSummary): string[] {
  const lines = notes.slice(0, PROBLEM_LIMIT).map((note) => `  ${colours.dim('·')} ${oneLine(note)}`);
  const more = notes.length - lines.length + notesCut;
  return more > 0 ? [...lines, `  ${colours.dim('·')} and ${counted(more, 'more note')}`] : lines;
}

function countLines(s: RunSummary): string[] {
  const perSecond = Math.round(s.operations / Math.max(0.001, s.wallSeconds));
  const { maps, unmaps, switches, audits, devices } = s;
  return [
    ...titledLines('operations', [
      `${s.operations} (${perSecond}/s)`,
      ...Object.entries({ maps, unmaps, switches, audits }).map(([name, count]) => `${name} ${count}`),
    ]),
    ...titledLines('verified', [
      `${bytesText(s.bytesVerified)}, ${counted(s.mismatches, 'mismatch', 'mismatches')}`,
      `checks failed ${s.checksFailed}`,
    ]),
    ...titledLines('faults', [`${s.faultsExpected} expected, ${s.faultsUnexpected} unexpected`]),
    ...titledLines('violations', [
      String(s.violations),
      `devices failed ${s.devicesFailed}`,
      `VMs lost ${s.vmsLost}`,
    ]),
    ...titledLines('pins', [
      `${devices.pins} taken, ${devices.unpins} dropped`,
      `stalls on a switch ${devices.stalls}`,
    ]),
  ];
}

function latencyLines(latencies: readonly LatencySummary[]): string[] {
  if (latencies.length === 0) return [];
  const cell = (text: string) => text.padStart(10);
  const head = `${'  latency'.padEnd(23)}${'count'.padStart(8)}${['p50', 'p95', 'p99', 'max'].map(cell).join('')}`;
  const rows = latencies.map(
    ({ name, count, p50Us, p95Us, p99Us, maxUs }) =>
      `    ${(LATENCY_TITLES[name] ?? oneLine(name)).padEnd(19)}${String(count).padStart(8)}` +
      [p50Us, p95Us, p99Us, maxUs].map((us) => cell(timeText(us))).join(''),
  );
  return [head, ...rows];
}

/** Returns a warning if the trace is incomplete. */
function traceLines({ hosts }: RunSummary): string[] {
  const dropped = hosts.reduce((sum, host) => sum + host.traceDropped, 0);
  const errors = new Set(hosts.map(({ traceError }) => traceError).filter((error) => error !== ''));
  if (dropped === 0 && errors.size === 0) return [];
  const why = errors.size === 0 ? 'the file reached its limit' : oneLine([...errors].join('; '));
  return [`  ${colours.red('trace')}          incomplete, ${counted(dropped, 'frame')} dropped: ${why}`];
}

function hostLines({ hosts }: RunSummary): string[] {
  const devices = hosts.reduce((sum, host) => sum + host.devices, 0);
  if (devices === 0) return [];
  const rss = hosts.reduce((sum, host) => sum + host.devicesRss, 0) / devices;
  const startMs = Math.max(...hosts.map((host) => host.devicesStartUs)) / 1000;
  const start = `${devices} in ${timeText(startMs * 1000)} (${timeText((startMs * 1000) / devices)} each)`;
  const lines = titledLines('vGPU start', [`${start}, ${bytesText(rss)} each`]);
  const baseline = hosts.find((host) => host.baselineWorkers > 0);
  if (baseline) lines.push(...baselineLines(baseline, rss, (startMs * 1000) / devices));
  return lines;
}

/** Compares a vGPU with the baseline workers. */
function baselineLines(
  { baselineWorkers, baselineStartUs, baselineRss }: HostResult,
  rss: number,
  startUs: number,
): string[] {
  const [us, bytes] = [baselineStartUs / baselineWorkers, baselineRss / baselineWorkers];
  return titledLines('baseline', [
    `${baselineWorkers} in ${timeText(baselineStartUs)} (${timeText(us)} each), ${bytesText(bytes)} each:`,
    `a vGPU takes ${(rss / bytes).toFixed(2)} × the memory, ${(startUs / us).toFixed(2)} × the time`,
  ]);
}
