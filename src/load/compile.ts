/**
 * Compiles the settings `load` and `thresholds` into what guests and judges use: numbers instead of texts.
 */
import { parseSelector, type Selector } from '../metrics/selector.ts';
import { parseCondition, type Threshold } from '../metrics/threshold.ts';
import { parseDuration } from '../metrics/units.ts';
import { type Ramp, rampLength } from './schedule.ts';
import type { LoadSettings, StageSettings, ThresholdSettings } from './schema.ts';
import { OWN_WORKLOAD } from './workload-names.ts';

/** Default of `maxVUs`. */
const DEFAULT_MAX_VUS = 8;

/** Rule by which the iterations of a stage start. Rates are per second, of the whole group. */
export type Pattern =
  | { readonly kind: 'vus'; readonly vus: number; readonly durationUs: number }
  | { readonly kind: 'ramping-vus'; readonly start: number; readonly ramps: readonly Ramp[] }
  | {
      readonly kind: 'per-vu';
      readonly vus: number;
      readonly iterations: number;
      readonly durationUs: number;
    }
  | {
      readonly kind: 'shared';
      readonly vus: number;
      readonly iterations: number;
      readonly durationUs: number;
    }
  | { readonly kind: 'rate'; readonly vus: number; readonly rate: number; readonly durationUs: number }
  | {
      readonly kind: 'ramping-rate';
      readonly vus: number;
      readonly startRate: number;
      readonly ramps: readonly Ramp[];
    };

/** A stage of the load, as plain JSON. Times are on the run's clock, which starts when all guests have booted. */
export interface Stage {
  readonly name: string;
  /** Position among the scenario's stages, for seeds. */
  readonly index: number;
  /** Name of its group; undefined for the VMs of all groups. */
  readonly group?: string | undefined;
  readonly startUs: number;
  readonly gracefulStopUs: number;
  readonly measured: boolean;
  readonly verify: number;
  /** Workloads with their weights. */
  readonly mix: readonly (readonly [workload: string, weight: number])[];
  readonly pattern: Pattern;
}

/** Name of the group of a scenario without `groups`. */
export const ONLY_GROUP = 'all';

const us = (text: string): number => parseDuration(text) ?? 0;

export const compileLoad = (load: LoadSettings): Stage[] =>
  Object.entries(load).map(([name, settings], index) => ({
    name,
    index,
    group: settings.group,
    startUs: us(settings.startTime),
    gracefulStopUs: us(settings.gracefulStop),
    measured: settings.measured,
    verify: settings.verify,
    mix: mixOf(settings.workload),
    pattern: patternOf(settings),
  }));

export const mixOf = (workload: StageSettings['workload']): Stage['mix'] =>
  typeof workload === 'object'
    ? Object.entries(workload).map(([name, weight = 0]) => [name, weight] as const)
    : [[workload ?? OWN_WORKLOAD, 1]];

function patternOf(stage: StageSettings): Pattern {
  switch (stage.executor) {
    case 'constant-vus':
      return { kind: 'vus', vus: stage.vus, durationUs: us(stage.duration) };
    case 'ramping-vus':
      return { kind: 'ramping-vus', start: stage.startVUs, ramps: rampsOf(stage.stages, 1) };
    case 'per-vu-iterations':
    case 'shared-iterations':
      return {
        kind: stage.executor === 'per-vu-iterations' ? 'per-vu' : 'shared',
        vus: stage.vus,
        iterations: stage.iterations,
        durationUs: us(stage.maxDuration),
      };
    case 'constant-arrival-rate':
      return {
        kind: 'rate',
        vus: maxVus(stage),
        rate: stage.rate / seconds(stage.timeUnit),
        durationUs: us(stage.duration),
      };
    case 'ramping-arrival-rate':
      return {
        kind: 'ramping-rate',
        vus: maxVus(stage),
        startRate: stage.startRate / seconds(stage.timeUnit),
        ramps: rampsOf(stage.stages, seconds(stage.timeUnit)),
      };
  }
}

const seconds = (text: string): number => us(text) / 1e6;
const maxVus = (stage: {
  readonly maxVUs?: number | undefined;
  readonly preAllocatedVUs?: number | undefined;
}) => Math.max(stage.maxVUs ?? stage.preAllocatedVUs ?? DEFAULT_MAX_VUS, stage.preAllocatedVUs ?? 1);
const rampsOf = (
  ramps: readonly { readonly duration: string; readonly target: number }[],
  timeUnit: number,
): Ramp[] => ramps.map(({ duration, target }) => ({ durationUs: us(duration), target: target / timeUnit }));

/** Returns the most VUs that a stage has on one vGPU. */
export const vusOf = ({ pattern }: Stage): number =>
  pattern.kind === 'ramping-vus'
    ? Math.max(1, pattern.start, ...pattern.ramps.map(({ target }) => target))
    : pattern.vus;

/** Returns how long a stage starts iterations. */
export const lengthOf = ({ pattern }: Stage): number =>
  'durationUs' in pattern ? pattern.durationUs : rampLength(pattern.ramps);

/** Returns when the last iteration of a stage has ended. */
export const endOf = (stage: Stage): number => stage.startUs + lengthOf(stage) + stage.gracefulStopUs;

const isOpen = ({ pattern }: Stage): boolean => pattern.kind === 'rate' || pattern.kind === 'ramping-rate';

/** Returns the most VUs that a vGPU has at one time: stages that overlap need VUs of their own. */
export const peakVus = (stages: readonly Stage[]): number =>
  Math.max(
    0,
    ...stages.map(({ startUs }) =>
      stages
        .filter((stage) => stage.startUs <= startUs && startUs < endOf(stage))
        .reduce((sum, stage) => sum + vusOf(stage), 0),
    ),
  );

/**
 * Compiles thresholds, and adds one for each open stage whose dropped iterations no threshold judges: a rate that was
 * missed fails the run unless the scenario says what is accepted.
 */
export function compileThresholds(settings: ThresholdSettings, stages: readonly Stage[]): Threshold[] {
  const named = Object.entries(settings).flatMap(([text, conditions]) => {
    const selector = parseSelector(text, true);
    return conditions.map((entry) => ({
      selector,
      condition: parseCondition(typeof entry === 'string' ? entry : entry.threshold, selector),
      abortOnFail: typeof entry === 'object' && entry.abortOnFail,
      delayAbortEvalUs: typeof entry === 'object' ? us(entry.delayAbortEval) : 0,
      implied: false,
    }));
  });
  const judged = (stage: Stage) => named.some(({ selector }) => judgesDrops(selector, stage));
  const missed = stages.filter((stage) => isOpen(stage) && stage.measured && !judged(stage));
  return [...named, ...missed.map(missedRate)];
}

const judgesDrops = ({ name, tags }: Selector, stage: Stage): boolean =>
  name === 'dropped_iterations' &&
  (tags.stage ?? stage.name) === stage.name &&
  (tags.group ?? stage.group) === stage.group;

function missedRate({ name }: Stage): Threshold {
  const selector = parseSelector(`dropped_iterations{stage:${name}}`);
  const condition = parseCondition('count==0', selector);
  return { selector, condition, abortOnFail: false, delayAbortEvalUs: 0, implied: true };
}
