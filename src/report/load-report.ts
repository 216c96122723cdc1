/**
 * The metrics and thresholds of a run in its summary.
 */
import type { MetricSummary } from '../metrics/metric-summary.ts';
import type { Verdict } from '../metrics/threshold-judge.ts';
import { formatValue } from '../metrics/units.ts';
import { colours } from './colours.ts';
import { oneLine } from './text.ts';

/** An event of the scenario, and how it has ended. */
export interface EventResult {
  /** Time at which it was due, and the time of its end, on the run's clock; null if it has no end. */
  readonly seconds: number;
  readonly endSeconds: number | null;
  /** The event in words, such as `migrate web/1 to 1`. */
  readonly action: string;
  /** Why nothing was done; empty if it was done. */
  readonly error: string;
}

/** The metrics of a run and the verdicts on them. */
export interface LoadReport {
  /** Length of the run's clock in seconds. */
  readonly seconds: number;
  readonly thresholds: readonly Verdict[];
  readonly metrics: readonly MetricSummary[];
  /** The threshold that has ended the run early, or empty. */
  readonly abortedBy: string;
  /** Metrics of scripts that are of different types in different VMs. */
  readonly conflicts: readonly string[];
  /** Count of samples in no metric of the report, because there were too many metrics. */
  readonly samplesCut: number;
  /** Events of the scenario, in order of time. */
  readonly events: readonly EventResult[];
}

/** Of a run without any metric. */
export const NO_LOAD: LoadReport = {
  seconds: 0,
  thresholds: [],
  metrics: [],
  abortedBy: '',
  conflicts: [],
  samplesCut: 0,
  events: [],
};

/** Maximum count of thresholds and of stages printed. */
const LINES_LIMIT = 40;
/** Largest widths of columns; a longer text moves the rest of its line. */
const METRIC_WIDTH_MAX = 40;
const CONDITION_WIDTH_MAX = 20;
/** Width of both columns up to which they stand two spaces apart. */
const ROOMY_WIDTH = 50;
const US_PER_SECOND = 1e6;

/** Returns a line for each threshold, those that were not met first. */
export function thresholdLines({ thresholds, abortedBy, samplesCut }: LoadReport): string[] {
  const sorted = thresholds.toSorted((a, b) => Number(a.ok) - Number(b.ok)).slice(0, LINES_LIMIT);
  const metricWidth = widthOf(
    sorted.map(({ metric }) => oneLine(metric)),
    METRIC_WIDTH_MAX,
  );
  const conditionWidth = widthOf(
    sorted.map(({ condition }) => condition),
    CONDITION_WIDTH_MAX,
  );
  const gap = metricWidth + conditionWidth > ROOMY_WIDTH ? ' ' : '  ';
  const lines = sorted.map(({ ok, metric, condition, text, implied }) => {
    const mark = ok ? colours.green('✓') : colours.red('✗');
    const observed = implied ? `${text}  (missed rate)` : text;
    return `  ${mark} ${oneLine(metric).padEnd(metricWidth)}${gap}${condition.padEnd(conditionWidth)}${gap}${observed}`;
  });
  if (thresholds.length > LINES_LIMIT)
    lines.push(`    and ${thresholds.length - LINES_LIMIT} more thresholds`);
  if (samplesCut > 0) lines.push(`    ${samplesCut} samples are in none of the metrics, which are too many`);
  if (abortedBy !== '') lines.push(`  ${colours.red('aborted')} by ${oneLine(abortedBy)}`);
  return lines;
}

/** Returns the width of a column with these texts. */
const widthOf = (texts: readonly string[], max: number): number =>
  Math.min(max, Math.max(0, ...texts.map(({ length }) => length)));

/** Returns a line for each event that was done; the others are problems. */
export function eventLines({ events }: LoadReport): string[] {
  const done = events.filter(({ error, endSeconds }) => error === '' && endSeconds !== null);
  const lines = done.slice(0, LINES_LIMIT).map(({ seconds, endSeconds, action }) => {
    const took = formatValue(((endSeconds ?? seconds) - seconds) * US_PER_SECOND, 'time');
    return `  event          ${formatValue(seconds * US_PER_SECOND, 'time')}: ${oneLine(action)}, in ${took}`;
  });
  if (done.length > LINES_LIMIT) lines.push(`    and ${done.length - LINES_LIMIT} more events`);
  return lines;
}

/** Returns a table with a row for each stage of the load. */
export function stageLines({ metrics }: LoadReport): string[] {
  const stages = [...new Set(metrics.flatMap(({ tags }) => tags.stage ?? []))].slice(0, LINES_LIMIT);
  if (stages.length === 0) return [];
  const of = (stage: string, name: string) =>
    metrics.find((metric) => metric.name === name && metric.tags.stage === stage)?.values;
  const cells = (texts: readonly string[]) =>
    texts.map((text, i) => text.padStart(i === 0 ? 11 : 9)).join('');
  const rows = stages.map((stage) => {
    const iterations = of(stage, 'iterations');
    const duration = of(stage, 'iteration_duration');
    const time = (aggregation: string) => (duration ? formatValue(duration[aggregation] ?? 0, 'time') : '-');
    const texts = [
      formatValue(iterations?.count ?? 0, 'count'),
      formatValue(of(stage, 'dropped_iterations')?.count ?? 0, 'count'),
      ...['med', 'p95', 'p99', 'max'].map(time),
    ];
    return `    ${stage.padEnd(20)}${cells(texts)}`;
  });
  return [`  ${'stage'.padEnd(22)}${cells(['iterations', 'dropped', 'p50', 'p95', 'p99', 'max'])}`, ...rows];
}
