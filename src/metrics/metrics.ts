/**
 * Metrics of one guest: series by name and tags, with what has changed since they were last taken.
 */
import { Aggregate, type AggregateData } from './aggregate.ts';
import { METRICS, type MetricType } from './catalogue.ts';
import type { Unit } from './units.ts';

/** Tags of a sample, by name. */
export type Tags = Readonly<Record<string, string>>;

/** Gain of a series in an interval. */
export interface MetricChange extends AggregateData {
  readonly name: string;
  readonly type: MetricType;
  readonly unit: Unit;
  readonly tags: Tags;
}

/** Maximum count of series of a guest. */
export const SERIES_LIMIT = 8192;
/** Names of metrics and tags. */
const NAME = /^[a-z][a-z0-9_]{0,63}$/i;
/** Maximum length of a tag's value, and maximum count of tags. */
const TAG_LIMIT = 64;
const TAGS_LIMIT = 16;
/** Tags that name the origin of a series. */
const RUN_TAGS: readonly string[] = ['group', 'vm'];

/** Adds samples of one metric with the same tags. */
export interface Counter {
  add(count?: number): void;
}
export interface Gauge {
  add(value: number): void;
}
export interface Rate {
  add(holds: boolean): void;
}
export interface Trend {
  /** @param value microseconds, if the unit is `time` */
  add(value: number): void;
}

class Series {
  readonly name: string;
  readonly type: MetricType;
  readonly unit: Unit;
  readonly tags: Tags;
  /** Undefined if samples are discarded. */
  changed: Aggregate | undefined;

  constructor(name: string, type: MetricType, unit: Unit, tags: Tags) {
    this.name = name;
    this.type = type;
    this.unit = unit;
    this.tags = tags;
    this.changed = new Aggregate(type);
  }

  add(value: number | boolean = 1): void {
    if (!this.changed) return;
    const number = Number(value);
    if (Number.isFinite(number)) this.changed.add(number);
  }
}

/** The series of a guest. */
class Registry {
  readonly all = new Map<string, Series>();
  readonly #types = new Map<string, MetricType>();

  series(name: string, type: MetricType, unit: Unit | undefined, tags: Tags): Series {
    const key = `${name} ${JSON.stringify(Object.entries(tags).sort())}`;
    const found = this.all.get(key);
    if (found?.type === type) return found;
    this.#check(name, type, tags);
    this.#types.set(name, type);
    const wanted = METRICS[name]?.unit ?? unit ?? DEFAULT_UNITS[type];
    const series = new Series(name, type, wanted, tags);
    this.all.set(key, series);
    return series;
  }

  #check(name: string, type: MetricType, tags: Tags): void {
    if (!NAME.test(name))
      throw new RangeError(
        `metric '${name}'; accepted: up to 64 letters, digits and _, a letter at the start`,
      );
    const known = METRICS[name]?.type ?? this.#types.get(name) ?? type;
    if (known !== type) throw new TypeError(`metric ${name} is a ${known}, not a ${type}`);
    const pairs = Object.entries(tags);
    if (pairs.length > TAGS_LIMIT)
      throw new RangeError(`${pairs.length} tags of metric ${name}; accepted: up to ${TAGS_LIMIT}`);
    for (const [tag, value] of pairs) checkTag(name, tag, value);
    if (this.all.size >= SERIES_LIMIT)
      throw new RangeError(
        `metric ${name} with tags ${JSON.stringify(tags)} is one series too many; accepted: ${SERIES_LIMIT} series of a ` +
          `guest, and ${this.#largest()} has the most: use tags with fewer values`,
      );
  }

  /** Returns the name of the metric with the most series, and their count. */
  #largest(): string {
    const counts = new Map<string, number>();
    for (const { name } of this.all.values()) counts.set(name, (counts.get(name) ?? 0) + 1);
    const [first] = [...counts].sort(([, a], [, b]) => b - a);
    return first ? `${first[0]} (${first[1]})` : 'none';
  }
}

/** @throws RangeError for a tag that no series may have */
function checkTag(metric: string, tag: string, value: unknown): void {
  if (!NAME.test(tag))
    throw new RangeError(
      `tag '${tag}' of metric ${metric}; accepted: up to 64 letters, digits and _, a letter at the start`,
    );
  if (RUN_TAGS.includes(tag))
    throw new RangeError(`tag '${tag}' of metric ${metric}, which the run sets; accepted: another name`);
  if (typeof value !== 'string' || value.length > TAG_LIMIT)
    throw new RangeError(
      `tag '${tag}' of metric ${metric} is ${given(value)}; accepted: texts of up to ${TAG_LIMIT} characters`,
    );
}

const given = (value: unknown): string =>
  typeof value === 'string' ? `a text of ${value.length} characters` : `of type ${typeof value}`;

/** Series of a guest that nobody takes: they have no samples. */
class DiscardingRegistry extends Registry {
  override series(name: string, type: MetricType, unit: Unit | undefined, tags: Tags): Series {
    const series = super.series(name, type, unit, tags);
    series.changed = undefined;
    return series;
  }
}

const DEFAULT_UNITS: Readonly<Record<MetricType, Unit>> = {
  counter: 'count',
  gauge: 'count',
  rate: 'ratio',
  trend: 'time',
};

/** Metrics of a guest, with some tags already set. */
export class Metrics {
  readonly #registry: Registry;
  readonly #tags: Tags;
  readonly #cache = new Map<string, Series>();

  constructor(tags: Tags = {}, registry: Registry = new Registry()) {
    this.#tags = tags;
    this.#registry = registry;
  }

  /** Returns metrics that discard their samples, for work that is not measured. */
  static discarding(): Metrics {
    return new Metrics({}, new DiscardingRegistry());
  }

  /** False if samples are discarded. */
  get measures(): boolean {
    return !(this.#registry instanceof DiscardingRegistry);
  }

  /** Returns the same metrics with further tags. */
  tagged(tags: Tags): Metrics {
    return new Metrics({ ...this.#tags, ...tags }, this.#registry);
  }

  /** A sum of counts. @throws RangeError, TypeError for a name of another type */
  counter(name: string, unit?: Unit): Counter {
    return this.#series(name, 'counter', unit);
  }

  /** A value that changes; the last, the least and the greatest count. @throws as {@link counter} */
  gauge(name: string, unit?: Unit): Gauge {
    return this.#series(name, 'gauge', unit);
  }

  /** The part of the samples that are true. @throws as {@link counter} */
  rate(name: string): Rate {
    return this.#series(name, 'rate', undefined);
  }

  /** A distribution of values, by default of microseconds. @throws as {@link counter} */
  trend(name: string, unit?: Unit): Trend {
    return this.#series(name, 'trend', unit);
  }

  /** Returns what the series have gained since the last call. */
  take(): MetricChange[] {
    const changes: MetricChange[] = [];
    for (const { name, type, unit, tags, changed } of this.#registry.all.values()) {
      if (!changed || changed.count === 0) continue;
      changes.push({ name, type, unit, tags, ...changed.data() });
      changed.clear();
    }
    return changes;
  }

  #series(name: string, type: MetricType, unit: Unit | undefined): Series {
    let series = this.#cache.get(name);
    if (series?.type !== type) {
      series = this.#registry.series(name, type, unit, this.#tags);
      this.#cache.set(name, series);
    }
    return series;
  }
}
