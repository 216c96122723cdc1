/**
 * Metrics as messages of the protocol.
 */
import type { FrameBodies } from '../proto/schema.ts';
import { METRIC_TYPES } from './catalogue.ts';
import type { MetricChange } from './metrics.ts';
import type { Unit } from './units.ts';

export type MetricsMessage = FrameBodies['vmMetrics'];
type ChangeMessage = MetricsMessage['changes'][number];
export type IterationMessage = MetricsMessage['iterations'][number];

/** Maximum count of changes in one message: a message stays far below the limit of a frame. */
const CHANGES_PER_MESSAGE = 512;

/** Returns messages with what was gained in this second of the run's clock; the first one also has `engineUse`. */
export function toMessages(
  second: number,
  changes: readonly MetricChange[],
  engineUse: readonly number[] = [],
): MetricsMessage[] {
  const messages: MetricsMessage[] =
    engineUse.length > 0 ? [{ second, changes: [], engineUse, iterations: [] }] : [];
  for (let first = 0; first < changes.length; first += CHANGES_PER_MESSAGE)
    messages.push({
      second,
      engineUse: [],
      iterations: [],
      changes: changes.slice(first, first + CHANGES_PER_MESSAGE).map(toChangeMessage),
    });
  return messages;
}

/** Returns a message with iterations that have ended in this second of the run's clock. */
export const iterationsMessage = (
  second: number,
  iterations: readonly IterationMessage[],
): MetricsMessage => ({ second, changes: [], engineUse: [], iterations: [...iterations] });

const toChangeMessage = (change: MetricChange): ChangeMessage => ({
  name: change.name,
  type: METRIC_TYPES.indexOf(change.type),
  unit: change.unit,
  tags: Object.entries(change.tags).flat(),
  count: change.count,
  sum: change.sum,
  min: change.min,
  max: change.max,
  last: change.last,
  buckets: change.histogram?.buckets ?? [],
  counts: change.histogram?.counts ?? [],
});

export const fromMessage = ({ changes }: MetricsMessage): MetricChange[] => changes.map(fromChangeMessage);

function fromChangeMessage({ tags, type, unit, buckets, counts, ...rest }: ChangeMessage): MetricChange {
  const pairs: Record<string, string> = {};
  for (let i = 0; i + 1 < tags.length; i += 2) pairs[tags[i] as string] = tags[i + 1] as string;
  return {
    ...rest,
    type: METRIC_TYPES[type] ?? 'counter',
    unit: unit as Unit,
    tags: pairs,
    histogram: { buckets, counts },
  };
}
