/**
 * Conditions of `--fail-on`: `command_latency{stage:web} p(99) > 1.1x` fails if the second run's value is more than 1.1
 * times that of the first.
 */
import { parseSelector } from '../../metrics/selector.ts';
import { AGGREGATIONS, OPERATORS } from '../../metrics/threshold.ts';
import { nearest } from '../../platform/nearest.ts';
import { type ComparedValue, comparedValue, metricsOf } from './compare.ts';
import { type StoredRun, StoredRunError } from './stored-run.ts';

const EXPRESSION =
  /^\s*([^\s{]+(?:\{[^}]*\})?)\s+([a-z]+(?:\([^)]*\))?)\s*(<=|>=|==|!=|<|>)\s*(\d+(?:\.\d+)?)x\s*$/i;

export const FAIL_ON_ACCEPTED =
  "accepted: METRIC AGGREGATION OPERATOR FACTORx, such as 'command_latency p(99) > 1.1x'";

/** A condition under which a comparison fails. */
export interface FailOn {
  readonly text: string;
  /** The metric with its tags. */
  readonly metric: string;
  readonly name: string;
  readonly aggregation: string;
  readonly operator: string;
  readonly factor: number;
}

/** A condition and the values of both runs. */
export interface FailOnResult {
  readonly text: string;
  readonly failed: boolean;
  /** Null if a run lacks the metric or its samples, which fails. */
  readonly value: ComparedValue | null;
}

/** Parses a condition; undefined for an invalid text. @throws ThresholdError for an invalid selector */
export function parseFailOn(text: string): FailOn | undefined {
  const [, selector, aggregation, operator, factor] = EXPRESSION.exec(text) ?? [];
  if (selector === undefined || aggregation === undefined || operator === undefined) return undefined;
  const { name, tags } = parseSelector(selector, true);
  const list = Object.entries(tags).map(([tag, value]) => `${tag}:${value}`);
  const metric = list.length === 0 ? name : `${name}{${list.join(',')}}`;
  return { text: text.trim(), metric, name, aggregation, operator, factor: Number(factor) };
}

/** Judges a condition. @throws StoredRunError for a metric that no run has, and for an aggregation that it does not have */
export function judgeFailOn(condition: FailOn, a: StoredRun, b: StoredRun): FailOnResult {
  const { text, metric, aggregation, operator, factor } = condition;
  const [inA, inB] = [metricsOf(a), metricsOf(b)];
  const [first, second] = [inA.get(metric), inB.get(metric)];
  const known = first ?? second;
  if (!known) {
    const names = new Set([...inA.keys(), ...inB.keys()]);
    throw new StoredRunError(
      `--fail-on '${text}': neither run has ${metric}; nearest: ${nearest(metric, names) ?? 'none'}`,
    );
  }
  const accepted = AGGREGATIONS[known.type];
  if (!accepted.includes(aggregation.replace(/^p\(.*\)$/, 'p(N)')) || !isPercentile(aggregation))
    throw new StoredRunError(
      `--fail-on '${text}': no aggregation '${aggregation}' of ${metric}, a ${known.type}; accepted: ${accepted.join(', ')}`,
    );
  if (!first || !second) return { text, failed: true, value: null };
  const value = comparedValue(first, second, aggregation, [a, b]);
  if (!value) return { text, failed: true, value: null };
  return { text, failed: OPERATORS[operator]?.(value.b, factor * value.a) ?? true, value };
}

/** Returns false for a percentile beyond 0 to 100, and true for all other aggregations. */
function isPercentile(aggregation: string): boolean {
  const text = /^p\((.*)\)$/.exec(aggregation)?.[1];
  return text === undefined || (/^\d+(\.\d+)?$/.test(text) && Number(text) <= 100);
}
