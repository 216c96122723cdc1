/**
 * The metrics that a device model keeps for the report.
 */
import type { DeviceMetrics } from './model.ts';

/** Most metrics of one device. */
export const METRICS_LIMIT = 64;
/** Most characters of a metric's name. */
const METRIC_NAME_LIMIT = 48;

const isMetric = (value: unknown): value is number =>
  typeof value === 'number' && value >= 0 && value <= Number.MAX_SAFE_INTEGER;

const isName = (name: unknown): name is string =>
  typeof name === 'string' && name.length > 0 && name.length <= METRIC_NAME_LIMIT;

export class MetricSet implements DeviceMetrics {
  readonly #values = new Map<string, number>();
  /** Counters of the models before the last reset. */
  readonly #kept = new Map<string, number>();

  add(name: string, by = 1): void {
    this.set(name, this.get(name) + by);
  }

  set(name: string, value: number): void {
    if (!isName(name))
      throw new RangeError(`metric '${name}'; accepted: 1 to ${METRIC_NAME_LIMIT} characters`);
    if (!isMetric(value)) throw new RangeError(`metric '${name}' = ${value}; accepted: 0 to 2^53 - 1`);
    if (!this.#values.has(name) && this.#values.size >= METRICS_LIMIT)
      throw new RangeError(`metric '${name}' exceeds the ${METRICS_LIMIT} metrics of a device`);
    this.#values.set(name, value);
  }

  get(name: string): number {
    return this.#values.get(name) ?? 0;
  }

  /** Adds the counters of a model that a reset ends: the report counts on. Drops invalid ones. */
  keep(counters: Readonly<Record<string, number>>): void {
    for (const [name, value] of Object.entries(counters))
      if (isName(name) && isMetric(value) && this.#kept.size < METRICS_LIMIT)
        this.#kept.set(name, (this.#kept.get(name) ?? 0) + value);
  }

  /**
   * Returns these metrics and a model's counters, rounded down to integers. Calls `refuse` for an invalid counter,
   * and for a counter beyond METRICS_LIMIT. The counters include those of earlier models.
   */
  collect(
    counters: Readonly<Record<string, number>>,
    refuse: (text: string) => void,
  ): { name: string; value: number }[] {
    const all = new Map(this.#values);
    for (const [name, value] of Object.entries(counters)) {
      if (isName(name) && isMetric(value) && all.size < METRICS_LIMIT)
        all.set(name, value + (this.#kept.get(name) ?? 0));
      else
        refuse(`counter '${name.slice(0, METRIC_NAME_LIMIT)}' is ${String(value)}; accepted: 0 to 2^53 - 1`);
    }
    return [...all].map(([name, value]) => ({ name, value: Math.floor(value) }));
  }
}
