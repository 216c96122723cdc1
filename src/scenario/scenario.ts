/**
 * The format of a scenario file: the settings of the run and the script of its guests.
 */
import { z } from 'zod';
import { DEFAULT_MODEL, DEVICE_TIMEOUT_MS } from '../coordinator/workers/supervisor.ts';
import { DEFAULT_SCHEDULING, POLICIES, SLICE_US_MAX, SLICE_US_MIN } from '../gpu/policy.ts';
import { DEFAULT_VGPU_TYPE, VGPU_TYPES } from '../gpu/types.ts';
import type { GuestVm } from '../guest/guest-vm.ts';
import type { GuestGpu } from '../guest/vm-parts.ts';
import { functionProblems, loadProblems } from '../load/check.ts';
import { eventsShape, HOSTS_LIMIT, hostsFor } from '../load/events.ts';
import {
  iommuShape,
  loadShape,
  NAME_KEY_ACCEPTED,
  nameShape,
  pauseShape,
  thresholdsShape,
} from '../load/schema.ts';
import {
  given,
  oneOf,
  type Problem,
  problemsOf,
  problemText,
  range,
  settingsObject,
} from '../load/settings.ts';
import { boundedText } from '../report/text.ts';
import type { DirectedRun } from './directed-run.ts';
import { paramsProblem } from './params.ts';

/** Limits of a run, beyond what any machine can start. */
export const VMS_LIMIT = 1024;
export const VGPUS_LIMIT = 31; // one bus: device numbers 1 to 31
export const RAM_MIB_MIN = 8;
export const RAM_MIB_MAX = 4096;

export { HOSTS_LIMIT };

/** Kinds of vIOMMU, as in the setting `viommu`. */
export const VIOMMUS = ['none', 'intel', 'intel-scalable', 'amd', 'virtio', 'spapr'] as const;

/** Source of mdevctl definitions: a path relative to the scenario file, or the JSON itself. */
const mdevSource = z.union(
  [z.string().min(1).max(4096), z.array(z.unknown()), z.record(z.string(), z.unknown())],
  "accepted: a path, or mdevctl's JSON",
);

const ramShape = range('int', RAM_MIB_MIN, RAM_MIB_MAX).multipleOf(4, 'accepted: a multiple of 4');
const typesShape = z
  .array(
    oneOf(
      'vGPU type',
      VGPU_TYPES.map(({ id }) => id),
    ),
  )
  .min(1)
  .max(VGPUS_LIMIT);

/** Division of the physical GPUs. Their count follows from the types. */
const gpuShape = settingsObject({
  policy: oneOf('policy', POLICIES)
    .default(DEFAULT_SCHEDULING.policy)
    .describe('scheduling of the vGPUs of a physical GPU'),
  sliceUs: range('int', SLICE_US_MIN, SLICE_US_MAX)
    .default(DEFAULT_SCHEDULING.sliceUs)
    .describe('time slice, µs of engine time'),
  types: typesShape
    .default([DEFAULT_VGPU_TYPE])
    .describe("types of a VM's vGPUs by index; after the last type, the first one follows again"),
});

/** VMs that are alike. Settings that are missing are the scenario's. */
const groupShape = settingsObject({
  vms: range('int', 1, VMS_LIMIT).default(1).describe('count of VMs in the group'),
  vgpus: range('int', 1, VGPUS_LIMIT).default(1).describe('count of vGPUs in each VM'),
  ramMiB: ramShape.optional().describe("RAM of each VM in MiB; default: the scenario's"),
  viommu: oneOf('vIOMMU', VIOMMUS).optional().describe("kind of the vIOMMU; default: the scenario's"),
  iommu: iommuShape.optional().describe("use of the vIOMMU; default: the scenario's"),
  types: typesShape.optional().describe("types of a VM's vGPUs by index; default: `gpu.types`"),
  boot: settingsObject({
    at: pauseShape.default('0s').describe("boot of the first VM on the run's clock"),
    every: pauseShape.default('0s').describe('time between the boots of two VMs'),
  })
    .optional()
    .describe("boot on the run's clock; default: before it starts"),
});

const NAME_ACCEPTED = 'accepted: a text of 1 to 64 characters';

/** The settings of a scenario. The command line can override most of them. */
export const scenarioShape = settingsObject({
  name: z
    .string(NAME_ACCEPTED)
    .min(1, NAME_ACCEPTED)
    .max(64, NAME_ACCEPTED)
    .describe('name in lists and reports'),
  question: z.string().max(400).default('').describe('question that a run answers'),
  vms: range('int', 1, VMS_LIMIT).default(1).describe('count of VMs'),
  vgpus: range('int', 1, VGPUS_LIMIT).default(1).describe('count of vGPUs in each VM'),
  mdevs: mdevSource
    .optional()
    .describe(
      "definitions of the VMs' devices by mdevctl, instead of `vgpus`: a source for each VM, or one that is divided over all",
    ),
  ramMiB: ramShape.default(64).describe('RAM of each VM in MiB, half of it below 4 GiB'),
  viommu: oneOf('vIOMMU', VIOMMUS).default('intel').describe('kind of the vIOMMU'),
  gpu: gpuShape.prefault({}).describe('division of the physical GPUs'),
  hosts: range('int', 1, HOSTS_LIMIT)
    .default(1)
    .describe('least count of host processes; with two or more, VMs can migrate between them'),
  timeoutMs: range('int', 1, 86_400_000)
    .default(120_000)
    .describe("time limit of each guest's script in milliseconds, beyond the end of its stages"),
  model: z
    .string()
    .min(1)
    .max(4096)
    .default(DEFAULT_MODEL)
    .describe(
      'device model: a built-in one, the path of a file, or a comma-separated list whose names the devices take in turn',
    ),
  deviceTimeoutMs: range('int', 100, 3_600_000)
    .default(DEVICE_TIMEOUT_MS)
    .describe(
      'time limit of one call of a device model in milliseconds; after that the device is quarantined',
    ),
  baselineWorkers: range('int', 0, 256)
    .default(0)
    .describe('count of workers without a device that are measured before the run'),
  params: z
    .record(z.string(), z.unknown())
    .superRefine((params, context) => {
      const message = paramsProblem(params);
      if (message !== '') context.addIssue({ code: 'custom', message });
    })
    // As every guest gets it: without getters and proxies.
    .transform((params) => JSON.parse(JSON.stringify(params)) as Record<string, unknown>)
    .default({})
    .describe(
      "the guests' `vm.params`; if they are set, the command line can change them, but not add others",
    ),
  groups: z
    .record(nameShape, groupShape, {
      error: (issue) =>
        issue.code === 'invalid_key' ? NAME_KEY_ACCEPTED : `${given(issue.input)}; accepted: groups by name`,
    })
    .refine((groups) => Object.keys(groups).length > 0, 'accepted: at least one group')
    .optional()
    .describe('groups of VMs that are alike, by name, instead of `vms` and `vgpus`'),
  load: loadShape.optional().describe('stages of load by name; the guests then boot without a script'),
  iommu: iommuShape
    .optional()
    .describe('use of the vIOMMU by guests under load; default: `strict`, or `off` without a vIOMMU'),
  events: eventsShape
    .default([])
    .describe("actions of the host on VMs under load, at times of the run's clock"),
  thresholds: thresholdsShape
    .default({})
    .describe('conditions on metrics by selector; a run that does not meet them exits with 99'),
});

export type ScenarioSettings = z.infer<typeof scenarioShape>;

/** A scenario: settings, and the script that runs as each VM's guest in its own worker. */
export type Scenario = z.input<typeof scenarioShape> & {
  /**
   * The guest's script. The run fails if it rejects or throws. With `load` it is optional, and runs beside the load
   * after the guest has booted.
   */
  guest?(vm: GuestVm): Promise<void>;
  /** The scenario's own workload: one iteration of a VU on a vGPU. */
  iteration?(vm: GuestVm, vgpu: GuestGpu): Promise<void> | void;
  /**
   * The script of a VM after its migration, on the new host. `state` is the value that `work` of `vm.migrate` returned.
   * Without `resume`, the scenario's VMs cannot migrate.
   */
  resume?(vm: GuestVm, state: unknown): Promise<void>;
  /**
   * The host's script beside the VMs, which are under declared load: boots, reboots, crashes, pauses and moves them. It
   * starts with the run's clock, in a worker of its own. The run fails if it rejects or throws.
   */
  director?(run: DirectedRun): Promise<void>;
};

/** Gives a scenario file's default export its type. The values are checked when the file is loaded. */
export const scenario = (definition: Scenario): Scenario => definition;

/** Thrown for an invalid scenario. The message names what is wrong and what is accepted. */
export class ScenarioError extends Error {
  override name = 'ScenarioError';
}

/** A scenario file's settings and functions. */
export interface CheckedScenario {
  readonly settings: ScenarioSettings;
  /** Names of the declared parameters; undefined if the scenario declares none and takes any. */
  readonly parameters: readonly string[] | undefined;
  readonly guest: Scenario['guest'];
  readonly resume: Scenario['resume'];
  readonly iteration: Scenario['iteration'];
  readonly director: Scenario['director'];
}

/** Checks a loaded module's default export. @throws ScenarioError */
export function checkScenario(module: { readonly default?: unknown }): CheckedScenario {
  const exported = module.default;
  if (typeof exported !== 'object' || exported === null)
    throw new ScenarioError('the file has no default export: it must be scenario({ … })');
  const { guest, resume, iteration, director, ...rest } = exported as Record<string, unknown>;
  if (guest === undefined && rest.load === undefined)
    throw new ScenarioError('neither guest nor load; accepted: a function guest(vm), or stages of load');
  for (const [name, value] of Object.entries({ guest, resume, iteration, director }))
    if (value !== undefined && typeof value !== 'function')
      throw new ScenarioError(`${name} is not a function`);
  const settings = parseSettings(rest);
  if (settings.load && resume !== undefined)
    throw new ScenarioError(
      'resume with load: events migrate VMs under declared load; accepted: one of them',
    );
  if (director !== undefined && (!settings.load || guest !== undefined))
    throw new ScenarioError(
      `director ${settings.load ? 'of VMs with a script guest(vm)' : 'without load'}; accepted: with load, and no guest(vm)`,
    );
  const functions = { guest: guest !== undefined, iteration: iteration !== undefined };
  throwIfAny([...loadProblems(settings), ...functionProblems(settings, functions)]);
  return {
    settings,
    parameters: rest.params === undefined ? undefined : Object.keys(settings.params),
    guest: guest as Scenario['guest'],
    resume: resume as Scenario['resume'],
    iteration: iteration as Scenario['iteration'],
    director: director as Scenario['director'],
  };
}

/** Limits of the message about invalid settings. */
const PROBLEMS_SHOWN = 10;
const PROBLEM_LENGTH_LIMIT = 600;

/** Checks settings against each other. @throws ScenarioError */
export const checkSettings = (settings: ScenarioSettings): void => throwIfAny(loadProblems(settings));

/** Returns the problems of settings, also of those of a data file, and the settings if there are none. */
export function settingsOrProblems(
  settings: unknown,
): { readonly settings: ScenarioSettings } | { readonly problems: readonly Problem[] } {
  const parsed = scenarioShape.safeParse(settings);
  if (!parsed.success) return { problems: problemsOf(parsed.error) };
  const { groups, events } = parsed.data;
  const hosts = Math.max(parsed.data.hosts, hostsFor(events));
  if (!groups) return { settings: { ...parsed.data, hosts } };
  const all = Object.values(groups);
  const counts = {
    vms: all.reduce((sum, { vms }) => sum + vms, 0),
    vgpus: Math.max(...all.map(({ vgpus }) => vgpus)),
  };
  const problems = Object.entries(counts).flatMap(([name, count]) => countProblem(settings, name, count));
  if (counts.vms > VMS_LIMIT)
    problems.push({ path: ['groups'], message: `${counts.vms} VMs in all; accepted: at most ${VMS_LIMIT}` });
  return problems.length > 0 ? { problems } : { settings: { ...parsed.data, ...counts, hosts } };
}

/** Returns a problem if a scenario with groups has another count than that of its groups. */
function countProblem(settings: unknown, name: string, count: number): Problem[] {
  const written = (settings as Readonly<Record<string, unknown>>)[name];
  if (written === undefined || written === count) return [];
  return [
    {
      path: [name],
      message: `${given(written)} beside groups; accepted: no ${name}, because the groups have ${count}`,
    },
  ];
}

/** Parses settings. @throws ScenarioError naming each invalid setting and its accepted range */
export function parseSettings(settings: unknown): ScenarioSettings {
  const parsed = settingsOrProblems(settings);
  if ('settings' in parsed) return parsed.settings;
  throw refusal(parsed.problems);
}

/** @throws ScenarioError */
function throwIfAny(problems: readonly Problem[]): void {
  if (problems.length > 0) throw refusal(problems);
}

function refusal(problems: readonly Problem[]): ScenarioError {
  const texts = problems.map((problem) => boundedText(problemText(problem), PROBLEM_LENGTH_LIMIT));
  const more = texts.length - PROBLEMS_SHOWN;
  const shown = texts.slice(0, PROBLEMS_SHOWN).join('; ');
  return new ScenarioError(more > 0 ? `${shown}; and ${more} more` : shown);
}
