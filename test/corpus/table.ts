/**
 * The table of schedules to each fault, for the documentation.
 */
import type { StrategyName } from '../../src/explore/strategy/strategies.ts';
import type { CorpusEntry } from './entry.ts';

export const SEEDS = 20;
/** Most schedules of one seed. */
export const TABLE_LIMIT = 4000;

/** Schedules to a fault, ascending, of the seeds that found it. */
export interface Measured {
  readonly found: readonly number[];
  readonly seeds: number;
}

/** Returns `median / worst`, with the seeds that found it if they are not all. */
function cellText({ found, seeds }: Measured): string {
  if (found.length === 0) return '–';
  const median = found[Math.floor((found.length - 1) / 2)];
  const text = seeds === 1 ? `${median}` : `${median} / ${found.at(-1)}`;
  return found.length === seeds ? text : `${text} (${found.length})`;
}

/** Returns the page. */
export function corpusTable(
  columns: readonly StrategyName[],
  rows: readonly { readonly entry: CorpusEntry; readonly cells: readonly Measured[] }[],
): string {
  const lines = rows.map(
    ({ entry, cells }) =>
      `| ${entry.id}${entry.weak ? ' (weak)' : ''} | ${cells.map(cellText).join(' | ')} |`,
  );
  const totals = columns.map((_, i) => {
    const seeds = rows.reduce((sum, { cells }) => sum + (cells[i]?.seeds ?? 0), 0);
    return `${rows.reduce((sum, { cells }) => sum + (cells[i]?.found.length ?? 0), 0)} of ${seeds}`;
  });
  const faults = rows.map(
    ({ entry }) => `- **${entry.id}**: ${entry.fault} Breaks: ${entry.rules.join(', ')}.`,
  );
  return `# Corpus of concurrency faults

\`npm run explore -- table\` writes this page. [exploring.md](exploring.md) explains the strategies.

Schedules to the fault: median / worst of ${SEEDS} seeds, at most ${TABLE_LIMIT} schedules each; in parentheses the count of seeds that
found it, if not all did. \`bounded\` is one search with at most 2 preemptions. \`weak\`: with stale loads.

| fault | ${columns.join(' | ')} |
|---|${columns.map(() => '---:|').join('')}
${lines.join('\n')}
| **seeds that found it** | ${totals.join(' | ')} |

## Faults

${faults.join('\n')}
`;
}
