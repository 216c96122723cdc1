/**
 * The output `prometheus`: a text file in Prometheus' exposition format 0.0.4, as node_exporter's textfile collector and a
 * push gateway take it.
 *
 * Trends are histograms with a bucket for each power of two, in seconds; counters and histograms are divided by stage, so
 * that their sum is the total. What no stage has counts with stage="".
 */
import { METRICS } from '../../metrics/catalogue.ts';
import type { HistogramSummary, MetricSummary } from '../../metrics/metric-summary.ts';
import type { Unit } from '../../metrics/units.ts';
import type { RunRecord } from '../record.ts';

const US_PER_SECOND = 1e6;

type Labels = Readonly<Record<string, string | number>>;

/** A line: the ending of the family's name, labels, and the value. */
interface Sample {
  readonly ending?: string;
  readonly labels: Labels;
  readonly value: number;
}

interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly samples: readonly Sample[];
}

/** Returns metrics, thresholds and exit code. */
export function recordPrometheus(record: RunRecord): string {
  const { scenario, seed, load } = record;
  const run: Labels = { scenario, seed };
  const byName = Map.groupBy(load.metrics, ({ name }) => name);
  const families = [
    ...runFamilies(record),
    ...[...byName].flatMap(([name, metrics]) =>
      metricFamilies(metrics, METRICS[name]?.meaning ?? "a scenario's own metric"),
    ),
  ];
  return withOwnNames(families)
    .map((family) => familyText(family, run))
    .join('');
}

function runFamilies({ program, exitCode, load }: RunRecord): Family[] {
  const one = (name: string, help: string, value: number, labels: Labels = {}): Family => ({
    name,
    help,
    type: 'gauge',
    samples: [{ labels, value }],
  });
  const thresholds = load.thresholds.map(({ metric, condition, ok }) => ({
    labels: { metric, condition },
    value: Number(ok),
  }));
  return [
    one('run_info', 'Program of the run', 1, { program }),
    one('run_exit_code', 'Exit code of the run: 0 if it has passed', exitCode),
    one('run_seconds', "Length of the run's clock", load.seconds),
    {
      name: 'threshold_met',
      help: '1 if the threshold was met',
      type: 'gauge',
      samples: withoutDoubles(thresholds),
    },
  ];
}

/** Names of a scenario's own metrics may be those of other families. */
function withOwnNames(families: readonly Family[]): Family[] {
  const names = new Set<string>();
  return families.map((family) => {
    let { name } = family;
    while (names.has(name)) name += '_';
    names.add(name);
    return { ...family, name };
  });
}

/** A series must not occur twice: of thresholds with the same text, one fails if any does. */
function withoutDoubles(samples: readonly Sample[]): Sample[] {
  const byLabels = Map.groupBy(samples, ({ labels }) => JSON.stringify(labels));
  return [...byLabels.values()].map((same) => ({
    labels: (same[0] as Sample).labels,
    value: Math.min(...same.map(({ value }) => value)),
  }));
}

/** Returns the families of one metric, which is in total and by stage. */
function metricFamilies(metrics: readonly MetricSummary[], meaning: string): Family[] {
  const total = metrics.find(({ tags }) => Object.keys(tags).length === 0);
  if (!total) return [];
  const stages = metrics.filter(({ tags }) => tags.stage !== undefined);
  const { name, unit, type } = total;
  const family = { name: `${name}${unitEnding(unit)}`, help: meaning };
  if (type === 'counter')
    return [{ ...family, name: `${family.name}_total`, type, samples: counterSamples(total, stages) }];
  if (type === 'trend')
    return [{ ...family, type: 'histogram', samples: histogramSamples(total, stages, scaleOf(unit)) }];
  const value = ({ values }: MetricSummary) =>
    (values[type === 'rate' ? 'rate' : 'value'] ?? 0) / scaleOf(unit);
  const samples = [total, ...stages].map((metric) => ({ labels: stageOf(metric), value: value(metric) }));
  return [{ ...family, type: 'gauge', samples }];
}

const unitEnding = (unit: Unit): string =>
  ({ time: '_seconds', bytes: '_bytes', ratio: '_ratio', count: '' })[unit];
const scaleOf = (unit: Unit): number => (unit === 'time' ? US_PER_SECOND : 1);
const stageOf = ({ tags }: MetricSummary): Labels => ({ stage: tags.stage ?? '' });

function counterSamples(total: MetricSummary, stages: readonly MetricSummary[]): Sample[] {
  const count = ({ values }: MetricSummary) => values.count ?? 0;
  const samples = stages.map((metric) => ({ labels: stageOf(metric), value: count(metric) }));
  const rest = count(total) - samples.reduce((sum, { value }) => sum + value, 0);
  return rest > 0 || samples.length === 0 ? [...samples, { labels: stageOf(total), value: rest }] : samples;
}

/** Samples by the upper edge of their bucket. */
type Buckets = ReadonlyMap<number, number>;

function histogramSamples(total: MetricSummary, stages: readonly MetricSummary[], scale: number): Sample[] {
  const parts = stages.map((metric) => ({
    labels: stageOf(metric),
    buckets: bucketsOf(metric),
    sum: sumOf(metric),
  }));
  const left = new Map(bucketsOf(total));
  for (const { buckets } of parts)
    for (const [edge, count] of buckets) left.set(edge, (left.get(edge) ?? 0) - count);
  const rest = {
    labels: stageOf(total),
    buckets: left,
    sum: sumOf(total) - parts.reduce((sum, part) => sum + part.sum, 0),
  };
  const hasRest = [...left.values()].some((count) => count > 0) || parts.length === 0;
  const edges = [...left.keys()].sort((a, b) => a - b);
  return (hasRest ? [...parts, rest] : parts).flatMap(({ labels, buckets, sum }) => {
    let seen = 0;
    const samples: Sample[] = edges.map((edge) => {
      seen += buckets.get(edge) ?? 0;
      return { ending: '_bucket', labels: { ...labels, le: String(edge / scale) }, value: seen };
    });
    return [
      ...samples,
      { ending: '_bucket', labels: { ...labels, le: '+Inf' }, value: seen },
      { ending: '_sum', labels, value: Math.max(0, sum) / scale },
      { ending: '_count', labels, value: seen },
    ];
  });
}

const sumOf = ({ values: { avg = 0, count = 0 } }: MetricSummary): number => (count > 0 ? avg * count : 0);

/** Merges a histogram's buckets to powers of two. */
function bucketsOf({
  histogram = { from: [], counts: [] },
}: {
  readonly histogram?: HistogramSummary;
}): Buckets {
  const buckets = new Map<number, number>();
  for (const [i, from] of histogram.from.entries()) {
    // Samples of 0 are in a bucket of their own.
    const edge = from > 0 ? 2 ** (Math.floor(Math.log2(from)) + 1) : 0;
    buckets.set(edge, (buckets.get(edge) ?? 0) + (histogram.counts[i] ?? 0));
  }
  return buckets;
}

function familyText({ name, help, type, samples }: Family, run: Labels): string {
  const full = `mdevsim_${name}`;
  if (samples.length === 0) return '';
  const lines = samples.map(
    ({ ending = '', labels, value }) => `${full}${ending}${labelText({ ...run, ...labels })} ${value}`,
  );
  return [`# HELP ${full} ${escapedHelp(help)}`, `# TYPE ${full} ${type}`, ...lines, ''].join('\n');
}

const escapedHelp = (text: string): string =>
  text.replaceAll('\\', String.raw`\\`).replaceAll('\n', String.raw`\n`);

const labelText = (labels: Labels): string =>
  `{${Object.entries(labels)
    .map(
      ([name, value]) =>
        `${name}="${escapedHelp(String(value).toWellFormed()).replaceAll('"', String.raw`\"`)}"`,
    )
    .join(',')}}`;
