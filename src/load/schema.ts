/**
 * The settings `load` and `thresholds` of a scenario. Names and options are k6's where the meaning is the same.
 *
 * Durations stay texts here, because settings are checked again after the command line has changed them; compile.ts
 * makes numbers of them.
 */
import { z } from 'zod';
import { parseSelector, ThresholdError } from '../metrics/selector.ts';
import { parseCondition } from '../metrics/threshold.ts';
import { DURATION_PATTERN, parseDuration, TIME_ACCEPTED } from '../metrics/units.ts';
import { given, oneOf, range, settingsObject, unknownName } from './settings.ts';
import { WORKLOAD_NAMES } from './workload-names.ts';

/** Uses of the vIOMMU by a guest without a script. */
const IOMMU_MODES = ['off', 'passthrough', 'strict', 'lazy'] as const;
export type IommuMode = (typeof IOMMU_MODES)[number];
export const iommuShape = oneOf('mode of the vIOMMU', IOMMU_MODES);

/** Maximum count of VUs on one vGPU. */
export const VUS_LIMIT = 128;
/** Range of the arrivals of a group per timeUnit. */
const RATE_LEAST = 1e-6;
const RATE_LIMIT = 1_000_000;
const ITERATIONS_LIMIT = 1e9;
const STAGES_LIMIT = 64;
const RAMPS_LIMIT = 256;
/** Longest duration: a day. */
const DURATION_LIMIT_US = 86_400e6;

/** Returns what is wrong with a duration; undefined for a valid one. */
function durationProblem(value: unknown, leastUs: number): string | undefined {
  const accepted = `accepted: ${TIME_ACCEPTED}, up to 24h`;
  if (typeof value === 'number') return `${value} has no unit; ${accepted}`;
  const us = typeof value === 'string' ? parseDuration(value) : undefined;
  if (us === undefined) return `${given(value)}; ${accepted}`;
  return us < leastUs || us > DURATION_LIMIT_US
    ? `${value} is out of range; ${accepted}${leastUs > 0 ? ', more than 0' : ''}`
    : undefined;
}

const durationFrom = (leastUs: number) =>
  z
    .string({ error: ({ input }) => durationProblem(input, leastUs) })
    .refine((text) => durationProblem(text, leastUs) === undefined, {
      error: ({ input }) => durationProblem(input, leastUs),
    })
    // For the JSON Schema; the refinement checks.
    .meta({ pattern: DURATION_PATTERN, examples: ['250us', '20ms', '1m30s'] });
const duration = durationFrom(1);
export const pauseShape: ReturnType<typeof durationFrom> = durationFrom(0);

const WEIGHT_LIMIT = 1e6;
const mix = z
  .partialRecord(z.enum(WORKLOAD_NAMES), range('number', 0, WEIGHT_LIMIT))
  .refine(
    (weights) => Object.values(weights).some((weight = 0) => weight > 0),
    'accepted: at least one workload with a weight above 0',
  );
const workload = z.union([z.enum(WORKLOAD_NAMES), mix], { error: ({ input }) => workloadProblem(input) });

function workloadProblem(input: unknown): string {
  const names = typeof input === 'object' && input !== null ? Object.keys(input) : [input];
  const unknown = names.find((name) => typeof name === 'string' && !WORKLOAD_NAMES.includes(name));
  if (unknown !== undefined) return unknownName('workload', unknown, WORKLOAD_NAMES);
  return `${given(input)}; accepted: a workload, or workloads with weights, such as { copy: 3, dma-churn: 1 }`;
}

/** Settings of every stage. */
const common = {
  group: z.string().optional().describe('group whose VMs run the stage; default: all VMs'),
  workload: workload
    .optional()
    .describe("workload, or workloads with their weights; default: the scenario's own `iteration`"),
  startTime: pauseShape.default('0s').describe("start of the stage on the run's clock"),
  gracefulStop: pauseShape
    .default('30s')
    .describe('time for which iterations may continue after the end of the stage'),
  measured: z.boolean().default(true).describe('if false, the stage counts in no metric'),
  verify: range('number', 0, 1).default(1).describe('part of the iterations whose results are compared'),
};
const vus = range('int', 1, VUS_LIMIT).describe('count of VUs on each vGPU');
const vuTarget = range('int', 0, VUS_LIMIT);
const iterations = range('int', 1, ITERATIONS_LIMIT);
const rate = range('number', RATE_LEAST, RATE_LIMIT).describe(
  'count of iterations per `timeUnit`, of all VMs of the stage together',
);
const rateTarget = range('number', 0, RATE_LIMIT);
const stageDuration = duration.describe('length of the stage');
const maxDuration = duration
  .default('10m')
  .describe('end of the stage if its iterations have not been started by then');
const rampsOf = (target: z.ZodNumber, meaning: string) =>
  z
    .array(
      settingsObject({
        duration: pauseShape.describe('time from the previous target to this one; 0s jumps'),
        target: target.describe(meaning),
      }),
      'accepted: a list of { duration, target }',
    )
    .min(1, 'accepted: a list of { duration, target }, at least one')
    .max(RAMPS_LIMIT, `accepted: at most ${RAMPS_LIMIT}`)
    .describe('the line, as a list of `{ duration, target }`');
const arrivals = {
  timeUnit: duration.default('1s').describe('time unit of rates'),
  preAllocatedVUs: vus.optional().describe('default of `maxVUs`, as in k6 scripts'),
  maxVUs: vus.optional().describe('count of VUs on each vGPU; default: `preAllocatedVUs`, or 8'),
};

const EXECUTORS = [
  'constant-vus',
  'ramping-vus',
  'per-vu-iterations',
  'shared-iterations',
  'constant-arrival-rate',
  'ramping-arrival-rate',
] as const;

const stageShape = z.discriminatedUnion(
  'executor',
  [
    settingsObject({
      ...common,
      executor: z.literal('constant-vus'),
      vus: vus.default(1),
      duration: stageDuration,
    }),
    settingsObject({
      ...common,
      executor: z.literal('ramping-vus'),
      startVUs: vuTarget.default(1).describe('count of VUs on each vGPU at the start'),
      stages: rampsOf(vuTarget, 'count of VUs on each vGPU at the end of the ramp'),
    }),
    settingsObject({
      ...common,
      executor: z.literal('per-vu-iterations'),
      vus: vus.default(1),
      iterations: iterations.default(1).describe('count of iterations of each VU'),
      maxDuration,
    }),
    settingsObject({
      ...common,
      executor: z.literal('shared-iterations'),
      vus: vus.default(1),
      iterations: iterations.default(1).describe('count of iterations of all VUs of all VMs together'),
      maxDuration,
    }),
    settingsObject({
      ...common,
      ...arrivals,
      executor: z.literal('constant-arrival-rate'),
      rate,
      duration: stageDuration,
    }),
    settingsObject({
      ...common,
      ...arrivals,
      executor: z.literal('ramping-arrival-rate'),
      startRate: rateTarget.default(0).describe('rate at the start, per `timeUnit`'),
      stages: rampsOf(rateTarget, 'rate at the end of the ramp, per `timeUnit`'),
    }),
  ],
  {
    error: (issue) =>
      issue.code === 'invalid_union'
        ? unknownName('executor', (issue.input as { executor?: unknown }).executor, EXECUTORS)
        : `${given(issue.input)}; accepted: an executor and its options`,
  },
);

/** Names of stages and groups. */
export const nameShape = z.string().regex(/^[a-z][\w-]{0,31}$/i);
export const NAME_KEY_ACCEPTED = 'accepted: up to 32 letters, digits, _ and -, a letter at the start';

export const loadShape = z
  .record(nameShape, stageShape, {
    error: (issue) =>
      issue.code === 'invalid_key' ? NAME_KEY_ACCEPTED : `${given(issue.input)}; accepted: stages by name`,
  })
  .refine((stages) => Object.keys(stages).length > 0, 'accepted: at least one stage')
  .refine((stages) => Object.keys(stages).length <= STAGES_LIMIT, `accepted: at most ${STAGES_LIMIT} stages`);

export type LoadSettings = z.infer<typeof loadShape>;
export type StageSettings = z.infer<typeof stageShape>;

const thresholdShape = z.union(
  [
    z.string(),
    settingsObject({
      threshold: z.string().describe('condition, such as `p(99)<20ms`'),
      abortOnFail: z.boolean().default(false).describe('end the run as soon as the condition does not hold'),
      delayAbortEval: pauseShape
        .default('0s')
        .describe("time on the run's clock before which `abortOnFail` does nothing"),
    }),
  ],
  { error: 'accepted: a condition such as p(99)<20ms, or { threshold, abortOnFail, delayAbortEval }' },
);

const CONDITIONS = 'accepted: a list of 1 to 64 conditions';

/** Checks selectors and conditions; whether a metric exists is checked where the scenario's functions are known. */
export const thresholdsShape = z
  .record(
    z.string(),
    z.array(thresholdShape, CONDITIONS).min(1, CONDITIONS).max(64, CONDITIONS),
    'accepted: conditions by metric',
  )
  .superRefine((thresholds, context) => {
    for (const [text, conditions] of Object.entries(thresholds)) {
      const selector = problemOf(() => parseSelector(text, true), context, [text]);
      if (!selector) continue;
      for (const [i, entry] of conditions.entries()) {
        const condition = typeof entry === 'string' ? entry : entry.threshold;
        problemOf(() => parseCondition(condition, selector), context, [text, i]);
      }
    }
  });

export type ThresholdSettings = z.infer<typeof thresholdsShape>;

/** Returns the result of `parse`; reports its ThresholdError as an issue at `path`. */
function problemOf<Result>(
  parse: () => Result,
  context: z.RefinementCtx,
  path: (string | number)[],
): Result | undefined {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof ThresholdError)) throw error;
    context.addIssue({ code: 'custom', message: error.message, path });
    return undefined;
  }
}
