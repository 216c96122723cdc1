/**
 * The figures that a device model keeps for the report.
 */
import type { DeviceMetrics } from './model.ts';

/** Figures one device may have. */
export const METRICS_LIMIT = 64;
/** Characters of a figure's name. */
const METRIC_NAME_LIMIT = 48;

const isFigure = (value: unknown): value is number =>
  typeof value === 'number' && value >= 0 && value <= Number.MAX_SAFE_INTEGER;

const isName = (name: unknown): name is string =>
  typeof name === 'string' && name.length > 0 && name.length <= METRIC_NAME_LIMIT;

export class MetricSet implements DeviceMetrics {
  readonly #values = new Map<string, number>();

  add(name: string, by = 1): void {
    this.set(name, this.get(name) + by);
  }

  set(name: string, value: number): void {
    if (!isName(name))
      throw new RangeError(`metric '${name}'; accepted: 1 to ${METRIC_NAME_LIMIT} characters`);
    if (!isFigure(value)) throw new RangeError(`metric '${name}' = ${value}; accepted: 0 to 2^53 - 1`);
    if (!this.#values.has(name) && this.#values.size >= METRICS_LIMIT)
      throw new RangeError(`metric '${name}' is one more than the ${METRICS_LIMIT} of a device`);
    this.#values.set(name, value);
  }

  get(name: string): number {
    return this.#values.get(name) ?? 0;
  }

  /**
   * These figures and a model's own counters, whole numbers. `refuse` hears of counters that are no figures, or too
   * many.
   */
  collect(
    counters: Readonly<Record<string, number>>,
    refuse: (text: string) => void,
  ): { name: string; value: number }[] {
    const all = new Map(this.#values);
    for (const [name, value] of Object.entries(counters)) {
      if (isName(name) && isFigure(value) && all.size < METRICS_LIMIT) all.set(name, value);
      else
        refuse(`counter '${name.slice(0, METRIC_NAME_LIMIT)}' is ${String(value)}; accepted: 0 to 2^53 - 1`);
    }
    return [...all].map(([name, value]) => ({ name, value: Math.floor(value) }));
  }
}
