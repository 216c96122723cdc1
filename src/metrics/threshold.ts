/**
 * Threshold expressions: `p(99)<20ms`, `count==0`, `rate>0.99`, `max<4MiB`, `p(95)<5ms over 10s`.
 */
import { nearest } from '../platform/nearest.ts';
import type { Aggregate } from './aggregate.ts';
import { METRICS, type MetricType } from './catalogue.ts';
import { type Selector, ThresholdError } from './selector.ts';
import { acceptedValues, parseDuration, parseSize, parseValue, TIME_ACCEPTED, type Unit } from './units.ts';

/** Aggregations of each type of metric. */
export const AGGREGATIONS: Readonly<Record<MetricType, readonly string[]>> = {
  counter: ['count', 'rate'],
  gauge: ['value', 'min', 'max'],
  rate: ['rate'],
  trend: ['avg', 'min', 'med', 'max', 'p(N)', 'count'],
};

export const OPERATORS: Readonly<Record<string, (a: number, b: number) => boolean>> = {
  '<': (a, b) => a < b,
  '<=': (a, b) => a <= b,
  '>': (a, b) => a > b,
  '>=': (a, b) => a >= b,
  '==': (a, b) => a === b,
  '!=': (a, b) => a !== b,
};

const US_PER_SECOND = 1e6;
/** Longest window of a threshold. */
const WINDOW_SECONDS_LIMIT = 3600;

const EXPRESSION = /^\s*([a-z]+)\s*(?:\(([^)]*)\))?\s*(<=|>=|==|!=|<|>)\s*(\S+)(?:\s+over\s+(\S+))?\s*$/i;

/** A condition on a metric. */
export interface Condition {
  readonly text: string;
  /** `avg`, `min`, `med`, `max`, `p`, `count`, `rate` or `value`. */
  readonly aggregation: string;
  /** Of `p`. */
  readonly percentile: number;
  readonly operator: string;
  /** The right side as it is written; its unit is that of the metric. */
  readonly right: string;
  /** Length of the windows; undefined for the whole run. */
  readonly windowSeconds: number | undefined;
}

/** A condition with its metric, and what happens when it does not hold. */
export interface Threshold {
  readonly selector: Selector;
  readonly condition: Condition;
  /** Ends the run as soon as the condition does not hold. */
  readonly abortOnFail: boolean;
  /** Time on the run's clock before which {@link abortOnFail} does nothing. */
  readonly delayAbortEvalUs: number;
  /** True for a threshold that the scenario does not name: that of a missed rate. */
  readonly implied: boolean;
}

/** Parses a condition on a metric; `spec` is undefined for a script's own metric. @throws ThresholdError */
export function parseCondition(text: string, { name }: Pick<Selector, 'name'>): Condition {
  const [, word, argument, operator, right, window] = EXPRESSION.exec(text) ?? [];
  if (word === undefined || operator === undefined || right === undefined)
    throw new ThresholdError(
      `'${text}' is no condition; accepted: an aggregation, ${Object.keys(OPERATORS).join(' ')} and a value, such as p(99)<20ms`,
    );
  const spec = METRICS[name];
  const aggregation = checkAggregation(word, argument, spec?.type, name);
  const unit = spec && unitOf(aggregation, spec.type, spec.unit);
  const isValue = unit
    ? parseValue(right, unit) !== undefined
    : [parseDuration(right), parseSize(right), parseValue(right, 'count')].some(
        (value) => value !== undefined,
      );
  if (!isValue)
    throw new ThresholdError(
      `'${right}' in '${text}'; accepted for ${name}: ${acceptedValues(unit ?? 'count')}`,
    );
  return {
    text: text.trim(),
    aggregation,
    percentile: aggregation === 'p' ? percentileOf(argument, text) : 0,
    operator,
    right,
    windowSeconds: window === undefined ? undefined : windowOf(window, text),
  };
}

/** Returns what a type of metric does not have; undefined for an aggregation that it has. */
export function aggregationProblem(
  { aggregation }: Pick<Condition, 'aggregation'>,
  type: MetricType,
): string | undefined {
  const written = aggregation === 'p' ? 'p(N)' : aggregation;
  const accepted = AGGREGATIONS[type];
  return accepted.includes(written)
    ? undefined
    : `no ${written} of a ${type}; accepted: ${accepted.join(', ')}`;
}

function checkAggregation(
  word: string,
  argument: string | undefined,
  type: MetricType | undefined,
  name: string,
): string {
  const written = argument === undefined ? word : `${word}(N)`;
  const accepted = type ? AGGREGATIONS[type] : [...new Set(Object.values(AGGREGATIONS).flat())];
  if (!accepted.includes(written))
    throw new ThresholdError(
      `no aggregation '${word}${argument === undefined ? '' : `(${argument})`}' of ${name}` +
        `${type ? `, a ${type}` : ''}; nearest: ${nearest(written, accepted)}; accepted: ${accepted.join(', ')}`,
    );
  return word;
}

function percentileOf(argument: string | undefined, text: string): number {
  const percentile = Number(argument);
  if (argument === undefined || argument.trim() === '' || !(percentile >= 0 && percentile <= 100))
    throw new ThresholdError(`'p(${argument})' in '${text}'; accepted: p(0) to p(100)`);
  return percentile;
}

function windowOf(window: string, text: string): number {
  const seconds = (parseDuration(window) ?? Number.NaN) / US_PER_SECOND;
  if (!Number.isInteger(seconds) || seconds < 1 || seconds > WINDOW_SECONDS_LIMIT)
    throw new ThresholdError(
      `'over ${window}' in '${text}'; accepted: whole seconds from 1s to ${WINDOW_SECONDS_LIMIT}s (${TIME_ACCEPTED})`,
    );
  return seconds;
}

/** Returns the unit of an aggregation: rates and the count of samples have none; the count of a counter is its sum. */
export function unitOf(aggregation: string, type: MetricType, unit: Unit): Unit {
  if (aggregation === 'rate') return 'ratio';
  return aggregation === 'count' && type !== 'counter' ? 'count' : unit;
}

/** Returns the value of an aggregation; NaN without samples. */
export function aggregateValue(
  { aggregation, percentile }: Pick<Condition, 'aggregation' | 'percentile'>,
  samples: Aggregate,
  type: MetricType,
  seconds: number,
): number {
  if (samples.count === 0) return Number.NaN;
  switch (aggregation) {
    case 'avg':
      return samples.sum / samples.count;
    case 'min':
      return samples.min;
    case 'max':
      return samples.max;
    case 'med':
      return samples.percentile(50);
    case 'p':
      return samples.percentile(percentile);
    case 'value':
      return samples.last;
    case 'rate':
      return type === 'rate' ? samples.sum / samples.count : samples.sum / Math.max(seconds, 1e-9);
    default:
      return type === 'counter' ? samples.sum : samples.count;
  }
}

/** Returns whether `value` meets the condition; `right` is the condition's right side in the metric's unit. */
export const holds = (condition: Condition, value: number, right: number): boolean =>
  OPERATORS[condition.operator]?.(value, right) ?? false;
