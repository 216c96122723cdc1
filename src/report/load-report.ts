/**
 * The metrics and thresholds of a run in its summary.
 */
import type { MetricSummary } from '../metrics/metric-summary.ts';
import type { Verdict } from '../metrics/threshold-judge.ts';
import { formatValue } from '../metrics/units.ts';
import { colours } from './colours.ts';
import { oneLine } from './text.ts';

/** The metrics of a run and the verdicts on them. */
export interface LoadReport {
  /** Length of the run's clock in seconds. */
  readonly seconds: number;
  readonly thresholds: readonly Verdict[];
  readonly metrics: readonly MetricSummary[];
  /** The threshold that has ended the run early, or empty. */
  readonly abortedBy: string;
}

/** Of a run without any metric. */
export const NO_LOAD: LoadReport = { seconds: 0, thresholds: [], metrics: [], abortedBy: '' };

/** Maximum count of thresholds and of stages printed. */
const LINES_LIMIT = 40;
const NAME_WIDTH = 34;

/** Returns a line for each threshold, those that were not met first. */
export function thresholdLines({ thresholds, abortedBy }: LoadReport): string[] {
  const sorted = thresholds.toSorted((a, b) => Number(a.ok) - Number(b.ok));
  const lines = sorted.slice(0, LINES_LIMIT).map(({ ok, metric, condition, text, implied }) => {
    const mark = ok ? colours.green('✓') : colours.red('✗');
    return `  ${mark} ${oneLine(metric).padEnd(NAME_WIDTH)} ${condition.padEnd(16)} ${text}${implied ? '  (missed rate)' : ''}`;
  });
  if (sorted.length > LINES_LIMIT) lines.push(`    and ${sorted.length - LINES_LIMIT} more thresholds`);
  if (abortedBy !== '') lines.push(`  ${colours.red('aborted')} by ${oneLine(abortedBy)}`);
  return lines;
}

/** Returns a table with a row for each stage of the load. */
export function stageLines({ metrics }: LoadReport): string[] {
  const stages = [...new Set(metrics.flatMap(({ tags }) => tags.stage ?? []))].slice(0, LINES_LIMIT);
  if (stages.length === 0) return [];
  const of = (stage: string, name: string) =>
    metrics.find((metric) => metric.name === name && metric.tags.stage === stage)?.values;
  const cells = (texts: readonly string[]) => texts.map((text) => text.padStart(10)).join('');
  const rows = stages.map((stage) => {
    const iterations = of(stage, 'iterations');
    const duration = of(stage, 'iteration_duration');
    const time = (aggregation: string) => (duration ? formatValue(duration[aggregation] ?? 0, 'time') : '-');
    const texts = [
      formatValue(iterations?.count ?? 0, 'count'),
      formatValue(of(stage, 'dropped_iterations')?.count ?? 0, 'count'),
      ...['med', 'p95', 'p99', 'max'].map(time),
    ];
    return `    ${stage.padEnd(17)}${cells(texts)}`;
  });
  return [`  ${'stage'.padEnd(19)}${cells(['iterations', 'dropped', 'p50', 'p95', 'p99', 'max'])}`, ...rows];
}
