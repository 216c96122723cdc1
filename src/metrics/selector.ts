/**
 * Selectors of metrics, as k6 writes them: `command_latency{group:web,stage:peak}`.
 */
import { nearest } from '../platform/nearest.ts';
import { METRICS } from './catalogue.ts';
import type { Tags } from './metrics.ts';

/** Tags of the built-in metrics. */
const TAGS: readonly string[] = ['group', 'vm', 'vgpu', 'stage', 'workload', 'op'];

export interface Selector {
  /** The selector as it is written. */
  readonly text: string;
  readonly name: string;
  readonly tags: Tags;
}

/** Thrown for an invalid selector or threshold. */
export class ThresholdError extends Error {
  override name = 'ThresholdError';
}

/** @throws ThresholdError */
export function parseSelector(text: string, ownMetrics = false): Selector {
  const [, name, list] = /^\s*([a-z]\w*)\s*(?:\{(.*)\})?\s*$/i.exec(text) ?? [];
  if (name === undefined)
    throw new ThresholdError(`'${text}' is no metric; accepted: name or name{tag:value,…}`);
  if (!(name in METRICS) && !ownMetrics)
    throw new ThresholdError(
      `no metric '${name}'; nearest: ${nearest(name, Object.keys(METRICS))}; accepted: ${Object.keys(METRICS).join(', ')}`,
    );
  const tags: Record<string, string> = {};
  for (const part of list === undefined ? [] : list.split(',')) {
    const [, tag, value] = /^\s*(\w+)\s*:\s*(.+?)\s*$/.exec(part) ?? [];
    if (tag === undefined || value === undefined)
      throw new ThresholdError(`'${part.trim()}' in '${text}' is no tag; accepted: tag:value`);
    if (name in METRICS && !TAGS.includes(tag))
      throw new ThresholdError(
        `no tag '${tag}' of ${name}; nearest: ${nearest(tag, TAGS)}; accepted: ${TAGS.join(', ')}`,
      );
    tags[tag] = value;
  }
  return { text: text.trim(), name, tags };
}

/** Returns true if samples with these tags belong to the selector. */
export const selects = (selector: Selector, tags: Tags): boolean =>
  Object.entries(selector.tags).every(([tag, value]) => tags[tag] === value);
