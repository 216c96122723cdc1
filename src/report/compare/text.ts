/**
 * A comparison as text.
 */
import { formatValue } from '../../metrics/units.ts';
import { shownValue } from '../../platform/difference.ts';
import { colours } from '../colours.ts';
import { counted, oneLine } from '../text.ts';
import type { ComparedValue, Comparison } from './compare.ts';
import type { FailOnResult } from './fail-on.ts';
import type { StoredRun } from './stored-run.ts';

/** Maximum count of lines of each part. */
const LINES_LIMIT = 60;
const NAME_WIDTH_MAX = 32;
const AGGREGATION_WIDTH = 6;
const VALUE_WIDTH = 11;
const RATIO_WIDTH = 8;
/** Digits of a count that is no whole number. */
const DIGITS = 4;

/** Returns the comparison as text: the verdict, the conditions, then the values with the largest changes first. */
export function comparisonText(
  [a, b]: readonly [StoredRun, StoredRun],
  comparison: Comparison,
  results: readonly FailOnResult[],
): string {
  const failed = results.filter((result) => result.failed).length;
  const verdict =
    failed > 0 ? colours.red('FAILED') : results.length > 0 ? colours.green('PASSED') : 'COMPARED';
  const beyond = comparison.values.filter(({ isBeyond }) => isBeyond).length;
  const lines = [
    `${verdict}  ${counted(comparison.values.length, 'value')}, ${beyond} beyond the noise`,
    ...[a, b].map(
      (run, i) =>
        `  ${'AB'[i]} ${oneLine(run.path)}: ${oneLine(run.scenario)}, seed ${run.seed}, ${run.verdict}`,
    ),
    ...results.map(resultLine),
    ...settingLines(comparison),
    ...valueLines(comparison.values),
    ...onlyLines('A', comparison.onlyInA),
    ...onlyLines('B', comparison.onlyInB),
  ];
  return `${lines.join('\n')}\n`;
}

function resultLine({ text, failed, value }: FailOnResult): string {
  const mark = failed ? colours.red('✗') : colours.green('✓');
  const observed = value ? `${ratioText(value)}${noiseText(value)}` : 'only one run has samples';
  return `  ${mark} fail on ${oneLine(text)}: ${observed}`;
}

const settingLines = ({ settings }: Comparison): string[] =>
  settings.map(({ where, a, b }) => `  setting ${oneLine(where)}: ${shownValue(a)} → ${shownValue(b)}`);

function valueLines(values: readonly ComparedValue[]): string[] {
  if (values.length === 0) return [];
  const cell = (text: string) => text.padStart(VALUE_WIDTH);
  const width = Math.min(NAME_WIDTH_MAX, Math.max(...values.map(({ metric }) => oneLine(metric).length)));
  const head = `  ${'metric'.padEnd(width + AGGREGATION_WIDTH + 1)}${['A', 'B'].map(cell).join('')}${'B/A'.padStart(RATIO_WIDTH)}  noise`;
  const rows = values
    .toSorted((x, y) => weightOf(y) - weightOf(x))
    .slice(0, LINES_LIMIT)
    .map((value) => {
      const { metric, aggregation, a, b, isBeyond } = value;
      const name = `${oneLine(metric).padEnd(width)} ${aggregation.padEnd(AGGREGATION_WIDTH)}`;
      const cells =
        [a, b].map((each) => cell(valueText(value, each))).join('') + ratioText(value).padStart(RATIO_WIDTH);
      return `  ${name}${isBeyond ? colours.yellow(cells) : cells}${noiseText(value)}`;
    });
  const more = values.length - LINES_LIMIT;
  if (more > 0) rows.push(`    and ${counted(more, 'more value')}; --json prints all`);
  return [head, ...rows];
}

/** Returns a value in few characters. */
function valueText({ unit, aggregation }: ComparedValue, value: number): string {
  const perSecond = aggregation === 'rate' && unit !== 'ratio' ? '/s' : '';
  if (unit !== 'count') return `${formatValue(value, unit)}${perSecond}`;
  const text = value >= 10 ** (DIGITS - 1) ? Math.round(value) : Number(value.toPrecision(DIGITS));
  return `${text}${perSecond}`;
}

/** Values beyond the noise come first, then those with the largest change. */
const weightOf = ({ isBeyond, ratio }: ComparedValue): number =>
  (isBeyond ? 1e9 : 0) + Math.min(1e6, ratio === null ? 1e6 : ratio === 0 ? 1e6 : Math.abs(Math.log(ratio)));

const ratioText = ({ ratio }: ComparedValue): string => (ratio === null ? '-' : `${ratio.toFixed(3)}x`);

/** Returns the noise, after > for a ratio beyond it; ? for runs that are too short to show it. */
const noiseText = ({ isBeyond, noise }: ComparedValue): string =>
  noise === null ? '  ?' : ` ${isBeyond ? '>' : ' '}±${percent(noise)}`;

const percent = (part: number): string => `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %`;

function onlyLines(name: string, metrics: readonly string[]): string[] {
  const lines = metrics.slice(0, LINES_LIMIT).map((metric) => `  only in ${name}: ${oneLine(metric)}`);
  const more = metrics.length - lines.length;
  return more > 0 ? [...lines, `    and ${counted(more, 'more metric')}`] : lines;
}
