/**
 * The pages in docs/workloads, as tests read them.
 */
import { readFileSync } from 'node:fs';

export const workloadPage = (name: string): string => readFileSync(`docs/workloads/${name}.md`, 'utf8');

/** A row of a page's table of metrics. */
interface MetricRow {
  readonly metrics: readonly string[];
  /** Values of the tag `op`. */
  readonly ops: readonly string[];
  /** False for metrics that only some iterations move. */
  readonly always: boolean;
}

export function metricRows(page: string): MetricRow[] {
  const section = page.slice(page.indexOf('\n## Metrics\n'), page.indexOf('\n## Verified\n'));
  const rows = section.split('\n').filter((line) => /^\| `/.test(line));
  const names = (cell = ''): string[] => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name as string);
  return rows.map((row) => {
    const [, metrics, ops, samples = ''] = row.split('|');
    return { metrics: names(metrics), ops: names(ops), always: !/^ 1 (if|for each use)/.test(samples) };
  });
}

/** Returns the example of a page. */
export const exampleOf = (page: string): string => /^```yaml\n([\s\S]*?)^```$/m.exec(page)?.[1] ?? '';
