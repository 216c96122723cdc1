/**
 * The output `csv` (RFC 4180): a row for each metric in total, by stage and by group, and one for each bucket of
 * their time series.
 *
 * Times are in seconds of the run's clock. Values of `time` are in microseconds, of `bytes` in bytes. A column that the
 * type of the metric does not have is empty.
 */
import type { MetricSummary } from '../../metrics/metric-summary.ts';
import type { RunRecord } from '../record.ts';

const VALUES = ['count', 'rate', 'value', 'min', 'avg', 'med', 'p95', 'p99', 'max'] as const;
const COLUMNS = ['metric', 'stage', 'group', 'type', 'unit', 'scope', 'from_s', 'to_s', ...VALUES] as const;

type Row = Partial<Record<(typeof COLUMNS)[number], string | number | null>>;

/** Returns a record's metrics as CSV with a header line. */
export function recordCsv({ load }: RunRecord): string {
  const rows = load.metrics.flatMap((metric) => [
    totalRow(metric, load.seconds),
    ...bucketRows(metric, load.seconds),
  ]);
  const lines = rows.map((row) => COLUMNS.map((column) => cell(row[column])).join(','));
  return [COLUMNS.join(','), ...lines].map((line) => `${line}\r\n`).join('');
}

const nameOf = ({ name, tags, type, unit }: MetricSummary): Row => ({
  metric: name,
  stage: tags.stage ?? '',
  group: tags.group ?? '',
  type,
  unit,
});

const totalRow = (metric: MetricSummary, seconds: number): Row => ({
  ...nameOf(metric),
  scope: 'total',
  from_s: 0,
  to_s: seconds,
  ...metric.values,
});

function bucketRows(metric: MetricSummary, seconds: number): Row[] {
  const { seconds: length, ...values } = metric.series;
  return values.count.flatMap((count, at) => {
    if (count === null) return [];
    const row: Row = {
      ...nameOf(metric),
      scope: 'bucket',
      from_s: at * length,
      // The last bucket ends with the run, unless samples have arrived late.
      to_s: Math.max(Math.min((at + 1) * length, seconds), at * length),
    };
    for (const [name, list] of Object.entries(values))
      row[name as (typeof VALUES)[number]] = list[at] ?? null;
    if (metric.type === 'counter') row.rate = count / length;
    return [row];
  });
}

/** Returns a cell, in quotes if RFC 4180 demands it. */
function cell(value: string | number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return '';
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
