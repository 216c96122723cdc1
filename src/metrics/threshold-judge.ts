/**
 * The judgement of one threshold: collects the samples that its selector names and compares.
 */
import { Aggregate, type AggregateData } from './aggregate.ts';
import { METRICS, type MetricType } from './catalogue.ts';
import type { MetricChange } from './metrics.ts';
import { SecondLog } from './second-log.ts';
import { aggregateValue, aggregationProblem, holds, type Threshold, unitOf } from './threshold.ts';
import { acceptedValues, formatValue, parseValue, type Unit } from './units.ts';
import { Windows } from './windows.ts';

/** Time between the end of a window and its judgement: the samples of all guests must have arrived. */
const WINDOW_LAG_SECONDS = 3;

/** The verdict on one threshold. */
export interface Verdict {
  /** The selector, such as `command_latency{stage:web}`. */
  readonly metric: string;
  readonly condition: string;
  readonly ok: boolean;
  /** The observed value in the unit of the metric; of windows, the worst one. Null without samples. */
  readonly observed: number | null;
  readonly unit: Unit;
  /** The observed value as text, or the reason why it is missing. */
  readonly text: string;
  /** True if the scenario does not name the threshold. */
  readonly implied: boolean;
}

/** A threshold on the samples so far. */
export interface ThresholdState {
  readonly metric: string;
  readonly condition: string;
  /** `waiting` without samples, or without a whole window. */
  readonly state: 'met' | 'missed' | 'waiting';
  /** The observed value; empty while waiting. */
  readonly text: string;
}

/** A window that does not meet the condition, or the last one that does. */
interface JudgedWindow {
  readonly value: number;
  readonly ok: boolean;
  readonly first: number;
}

/** Samples of a threshold's selector, as plain JSON. */
export interface JudgeData {
  readonly type: MetricType;
  readonly unit: Unit;
  /** Null without samples. */
  readonly samples: AggregateData | null;
  /** Of a condition over windows: the samples of each second, if they are kept. */
  readonly seconds: readonly (readonly [second: number, samples: AggregateData])[];
}

export class ThresholdJudge {
  readonly threshold: Threshold;
  readonly #keepsSeconds: boolean;
  #seconds: SecondLog | undefined;
  #type: MetricType;
  #unit: Unit;
  #samples: Aggregate | undefined;
  #windows: Windows | undefined;
  #window: JudgedWindow | undefined;

  /** @param keepsSeconds whether {@link data} has the samples of each second, if the condition is over windows */
  constructor(threshold: Threshold, keepsSeconds = false) {
    this.threshold = threshold;
    this.#keepsSeconds = keepsSeconds;
    const spec = METRICS[threshold.selector.name];
    this.#type = spec?.type ?? 'counter';
    this.#unit = spec?.unit ?? 'count';
  }

  add(second: number, change: MetricChange): void {
    this.#type = change.type;
    this.#unit = change.unit;
    this.#samples ??= new Aggregate(change.type);
    this.#samples.merge(change);
    this.#addSecond(second, change);
  }

  data(): JudgeData {
    return {
      type: this.#type,
      unit: this.#unit,
      samples: this.#samples?.data() ?? null,
      seconds: this.#seconds?.data() ?? [],
    };
  }

  /** Adds the samples of a part of the run. */
  mergeData({ type, unit, samples, seconds }: JudgeData): void {
    if (!samples) return;
    this.#type = type;
    this.#unit = unit;
    this.#samples ??= new Aggregate(type);
    this.#samples.merge(samples);
    for (const [second, each] of seconds) this.#addSecond(second, each);
  }

  #addSecond(second: number, change: AggregateData): void {
    const { windowSeconds } = this.threshold.condition;
    if (windowSeconds === undefined) return;
    if (this.#keepsSeconds) {
      this.#seconds ??= new SecondLog(this.#type);
      this.#seconds.add(second, change);
    }
    this.#windows ??= new Windows(this.#type, windowSeconds, (samples, first) =>
      this.#judgeWindow(samples, first, windowSeconds),
    );
    this.#windows.add(second, change);
  }

  tick(seconds: number): void {
    this.#windows?.closeUntil(Math.floor(seconds) - WINDOW_LAG_SECONDS);
  }

  /** Returns true if the run must end now. */
  aborts(us: number): boolean {
    const { abortOnFail, delayAbortEvalUs } = this.threshold;
    if (!abortOnFail || us < delayAbortEvalUs || !this.#samples) return false;
    if (this.threshold.condition.windowSeconds !== undefined) return this.#window?.ok === false;
    return !this.#holds(this.#value(this.#samples, us / 1e6));
  }

  /** Returns the state of the threshold while the run continues. */
  soFar(seconds: number): ThresholdState {
    const { selector, condition } = this.threshold;
    const facts = { metric: selector.text, condition: condition.text };
    const unit = unitOf(condition.aggregation, this.#type, this.#unit);
    const isWindowed = condition.windowSeconds !== undefined;
    if (!this.#samples || (isWindowed && !this.#window)) return { ...facts, state: 'waiting', text: '' };
    const value = this.#window?.value ?? this.#value(this.#samples, seconds);
    const isMet = this.#window?.ok ?? this.#holds(value);
    return { ...facts, state: isMet ? 'met' : 'missed', text: formatValue(value, unit) };
  }

  /** @param absence why the metric has no samples, if it has none */
  verdict(seconds: number, absence: string = 'no samples'): Verdict {
    const { selector, condition, implied } = this.threshold;
    this.#windows?.end(Math.floor(seconds));
    const unit = unitOf(condition.aggregation, this.#type, this.#unit);
    const facts = { metric: selector.text, condition: condition.text, unit, implied };
    if (!this.#samples) return { ...facts, ok: false, observed: null, text: absence };
    const problem = aggregationProblem(condition, this.#type);
    if (problem !== undefined) return { ...facts, ok: false, observed: null, text: problem };
    if (Number.isNaN(this.#right))
      return { ...facts, ok: false, observed: null, text: `accepted: ${acceptedValues(unit)}` };
    if (condition.windowSeconds === undefined) {
      const observed = this.#value(this.#samples, seconds);
      return { ...facts, ok: this.#holds(observed), observed, text: formatValue(observed, unit) };
    }
    if (!this.#window) return { ...facts, ok: false, observed: null, text: 'no samples in a whole window' };
    const { value, ok, first } = this.#window;
    return { ...facts, ok, observed: value, text: `${formatValue(value, unit)} from ${first}s on` };
  }

  /** The right side in the metric's unit; NaN if it has another unit. */
  get #right(): number {
    const { right, aggregation } = this.threshold.condition;
    return parseValue(right, unitOf(aggregation, this.#type, this.#unit)) ?? Number.NaN;
  }

  #value(samples: Aggregate, seconds: number): number {
    return aggregateValue(this.threshold.condition, samples, this.#type, seconds);
  }

  #holds(value: number): boolean {
    return holds(this.threshold.condition, value, this.#right);
  }

  /** Keeps the first window that fails; until then the last one. */
  #judgeWindow(samples: Aggregate, first: number, seconds: number): void {
    if (this.#window?.ok === false) return;
    const value = this.#value(samples, seconds);
    this.#window = { value, ok: this.#holds(value), first };
  }
}
