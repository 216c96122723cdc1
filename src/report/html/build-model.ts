/**
 * Reduces the record of a run to the data that the report draws: bounded for any length of a run and any count of vGPUs.
 */
import type { MetricSummary } from '../../metrics/metric-summary.ts';
import type { RunEvent, RunRecord } from '../record.ts';
import { deviceRows } from './device-rows.ts';
import type { Bucketed, PageModel } from './page-model.ts';

/** Maximum count of latencies with their stages, and of counters. */
const TRENDS_LIMIT = 24;
const RATES_LIMIT = 24;
const GAUGES_LIMIT = 40;
/** Maximum count of events and of stages that the charts mark. */
const EVENTS_LIMIT = 256;
const STAGES_LIMIT = 64;
/** Buckets of a drawn histogram for each power of two. */
const PER_OCTAVE = 8;
const DIGITS = 3;
const EDGE_DIGITS = 5;

/** Metrics that come first. */
const FIRST = ['command_latency', 'iteration_duration', 'commands', 'iterations', 'dropped_iterations'];
/** Events of many VMs, which others precede. */
const COMMON_EVENTS = ['boot', 'end'];
const PHASE = 'phase';
const FAIRNESS = 'gpu_fairness';

type Model = Omit<PageModel, 'vgpus' | 'heat' | 'gpus' | 'strips'>;

/** The part of a record that the charts draw. */
export type Charted = Pick<
  RunRecord,
  'load' | 'stages' | 'events' | 'timelines' | 'results' | 'processes' | 'vms'
>;

/** Returns the data of the charts. */
export function pageModel(record: Charted): PageModel {
  const { load, stages, events } = record;
  const sorted = load.metrics.toSorted((a, b) => rankOf(a) - rankOf(b));
  const trends = sorted.filter(
    ({ type, unit, values }) => type === 'trend' && unit === 'time' && values.count,
  );
  const shown = trends.slice(0, TRENDS_LIMIT);
  const model: Model = {
    from: beginOf(record),
    seconds: Number(load.seconds.toFixed(3)),
    stages: (stages.length > 0 ? stageSpans(record) : phaseSpans(record)).slice(0, STAGES_LIMIT),
    events: events
      .filter(({ kind }) => kind !== PHASE)
      .toSorted((a, b) => commonness(a) - commonness(b))
      .slice(0, EVENTS_LIMIT)
      .map((event) => ({ at: event.seconds, text: eventText(event) })),
    trends: shown.map(trendLine),
    rates: rateLines(sorted),
    distributions: shown.map(distribution),
    gauges: gaugeLines(load.metrics),
  };
  return { ...model, ...deviceRows(record) };
}

/** The clock of a script starts with the processes; its charts begin with the first phase of a guest. */
function beginOf({ stages, events }: Charted): number {
  const first =
    stages.length > 0
      ? 0
      : Math.min(...events.filter(({ kind }) => kind === PHASE).map(({ seconds }) => seconds));
  return Number.isFinite(first) ? Math.max(0, Number(first.toFixed(3))) : 0;
}

type Spans = Model['stages'];

const stageSpans = ({ load, stages }: Charted): Spans =>
  stages.map(({ name, startSeconds, endSeconds, measured }) => ({
    name,
    from: startSeconds,
    to: Math.min(endSeconds, Math.max(load.seconds, startSeconds)),
    measured,
  }));

/** A script has no stages. Its phases in the first VM stand for those of all. */
function phaseSpans({ load, events }: Charted): Spans {
  const phases = events.filter(({ kind }) => kind === PHASE);
  const first = Math.min(...phases.map(({ vm }) => vm ?? 0));
  const own = phases.filter(({ vm }) => vm === first);
  const end = events.find(({ kind, vm }) => kind === 'end' && vm === first)?.seconds ?? load.seconds;
  return own.map(({ seconds, text }, i) => ({
    name: text,
    from: seconds,
    to: own[i + 1]?.seconds ?? Math.max(seconds, end),
    measured: true,
  }));
}

export const eventText = ({ kind, vm, text }: RunEvent): string =>
  [kind, vm === null ? '' : `vm${vm}`, text].filter((part) => part !== '').join(' ');

const commonness = ({ kind }: RunEvent): number => (COMMON_EVENTS.includes(kind) ? 1 : 0);

/** Totals first, those of the known names first, then by stage and group. */
function rankOf({ name, tags }: MetricSummary): number {
  const at = FIRST.indexOf(name);
  const isKnown = at >= 0 && at < 2;
  return (isKnown ? at : FIRST.length + at) + (partOf(tags) === '' ? 0 : isKnown ? 100 : 200);
}

/** Returns the name of the part of the samples: a stage or a group; empty for all. */
const partOf = ({ stage, group }: MetricSummary['tags']): string =>
  stage ?? (group === undefined ? '' : `group ${group}`);

const rounded = (value: number): number => Number(value.toPrecision(DIGITS));

const roundedAll = (values: Bucketed = []): Bucketed =>
  values.map((value) => (value === null ? null : rounded(value)));

function trendLine({ name, tags, series }: MetricSummary): PageModel['trends'][number] {
  const { seconds, med, p95, p99, max } = series;
  return {
    metric: name,
    stage: partOf(tags),
    seconds,
    med: roundedAll(med),
    p95: roundedAll(p95),
    p99: roundedAll(p99),
    max: roundedAll(max),
  };
}

/** Returns the counters per second; without the counter of commands, the count of their latencies. */
function rateLines(sorted: readonly MetricSummary[]): PageModel['rates'] {
  const counters = sorted.filter(({ type, name }) => type === 'counter' && FIRST.includes(name));
  const hasCommands = counters.some(({ name }) => name === 'commands');
  const instead = sorted.filter(({ name, tags }) => name === 'command_latency' && partOf(tags) === '');
  const lines = hasCommands ? counters : [...instead, ...counters];
  return lines.slice(0, RATES_LIMIT).map(({ name, tags, series: { seconds, count } }) => ({
    metric: name === 'command_latency' ? 'commands' : name,
    stage: partOf(tags),
    seconds,
    perSecond: roundedAll(count.map((each) => (each === null ? null : each / seconds))),
  }));
}

/** Returns gauges and rates, each by group if the run has groups. Fairness comes first. */
function gaugeLines(metrics: readonly MetricSummary[]): PageModel['gauges'] {
  const lines = metrics.filter(
    ({ type, tags }) => (type === 'gauge' || type === 'rate') && tags.stage === undefined,
  );
  const divided = new Set(lines.filter(({ tags }) => tags.group !== undefined).map(({ name }) => name));
  return lines
    .filter(({ name, tags }) => tags.group !== undefined || !divided.has(name))
    .toSorted((a, b) => Number(b.name === FAIRNESS) - Number(a.name === FAIRNESS))
    .slice(0, GAUGES_LIMIT)
    .map(({ name, tags, unit, series: { seconds, value, rate } }) => ({
      metric: name,
      part: tags.group ?? 'all',
      unit: unit === 'time' ? 'count' : unit,
      seconds,
      values: roundedAll(value ?? rate),
    }));
}

function distribution({ name, tags, histogram }: MetricSummary): PageModel['distributions'][number] {
  const merged = new Map<number, number>();
  for (const [i, edge] of (histogram?.from ?? []).entries()) {
    const from = edgeOf(edge);
    merged.set(from, (merged.get(from) ?? 0) + (histogram?.counts[i] ?? 0));
  }
  return {
    metric: name,
    stage: partOf(tags),
    perOctave: PER_OCTAVE,
    from: [...merged.keys()].map((edge) => Number(edge.toPrecision(EDGE_DIGITS))),
    counts: [...merged.values()].map(rounded),
  };
}

/** Returns the lower edge of the wider bucket around a narrow one. */
function edgeOf(edge: number): number {
  if (!(edge > 0)) return 0;
  const octave = 2 ** Math.floor(Math.log2(edge));
  return octave * (Math.floor((edge / octave) * PER_OCTAVE) / PER_OCTAVE);
}
