/**
 * The format of a scenario file: the settings of the run and the script of its guests.
 */
import { z } from 'zod';
import { DEFAULT_MODEL, DEVICE_TIMEOUT_MS } from '../coordinator/workers/supervisor.ts';
import { DEFAULT_SCHEDULING, POLICIES, SLICE_US_MAX, SLICE_US_MIN } from '../gpu/policy.ts';
import { DEFAULT_VGPU_TYPE, VGPU_TYPES } from '../gpu/types.ts';
import type { GuestVm } from '../guest/guest-vm.ts';
import { boundedText } from '../report/text.ts';
import { paramsProblem } from './params.ts';

/** Limits of a run, beyond what any machine can start. */
export const VMS_LIMIT = 1024;
export const VGPUS_LIMIT = 31; // one bus: device numbers 1 to 31
export const RAM_MIB_MIN = 8;
export const RAM_MIB_MAX = 4096;

/** Maximum count of host processes. */
export const HOSTS_LIMIT = 64;

/** Kinds of vIOMMU, as in the setting `viommu`. */
export const VIOMMUS = ['none', 'intel', 'intel-scalable', 'virtio', 'spapr'] as const;

/** Source of mdevctl definitions: a path relative to the scenario file, or the JSON itself. */
const mdevSource = z.union(
  [z.string().min(1).max(4096), z.array(z.unknown()), z.record(z.string(), z.unknown())],
  "accepted: a path, or mdevctl's JSON",
);

/** Division of the physical GPUs. Their count follows from the types. */
const gpuShape = z.strictObject({
  policy: z.enum(POLICIES).default(DEFAULT_SCHEDULING.policy),
  /** Time slice, µs of engine time. */
  sliceUs: z.int().min(SLICE_US_MIN).max(SLICE_US_MAX).default(DEFAULT_SCHEDULING.sliceUs),
  /** Types of a VM's vGPUs, by index; after the last type, the first one follows again. */
  types: z
    .array(z.enum(VGPU_TYPES.map(({ id }) => id)))
    .min(1)
    .max(VGPUS_LIMIT)
    .default([DEFAULT_VGPU_TYPE]),
});

/** The settings of a scenario. The command line can override most of them. */
const scenarioShape = z.strictObject({
  name: z.string().min(1).max(64),
  /** The question a run answers, for lists and reports. */
  question: z.string().max(400).default(''),
  vms: z.int().min(1).max(VMS_LIMIT).default(1),
  vgpus: z.int().min(1).max(VGPUS_LIMIT).default(1),
  /** Definitions of the VMs' devices, instead of `vgpus`: one source per VM, or one that is divided over all VMs. */
  mdevs: mdevSource.optional(),
  /** RAM of each VM, half of it below 4 GiB. */
  ramMiB: z.int().min(RAM_MIB_MIN).max(RAM_MIB_MAX).multipleOf(4).default(64),
  viommu: z.enum(VIOMMUS).default('intel'),
  gpu: gpuShape.prefault({}),
  /** Minimum count of host processes. With two or more, VMs can migrate between them. */
  hosts: z.int().min(1).max(HOSTS_LIMIT).default(1),
  /** Time limit of each guest's script. */
  timeoutMs: z.int().min(1).max(86_400_000).default(120_000),
  /**
   * Device model: the name of a built-in model, or the path of a file that exports one. A VM's devices take the names of
   * a comma-separated list in turn.
   */
  model: z.string().min(1).max(4096).default(DEFAULT_MODEL),
  /** How long one call of a device model may take before the device is quarantined. */
  deviceTimeoutMs: z.int().min(100).max(3_600_000).default(DEVICE_TIMEOUT_MS),
  /** Count of baseline workers to measure before the run; 0 for none. */
  baselineWorkers: z.int().min(0).max(256).default(0),
  /** The guests' `vm.params`. If they are set, the command line can change them, but not add others. */
  params: z
    .record(z.string(), z.unknown())
    .superRefine((params, context) => {
      const message = paramsProblem(params);
      if (message !== '') context.addIssue({ code: 'custom', message });
    })
    // As every guest gets it: without getters and proxies.
    .transform((params) => JSON.parse(JSON.stringify(params)) as Record<string, unknown>)
    .default({}),
});

export type ScenarioSettings = z.infer<typeof scenarioShape>;

/** A scenario: settings, and the script that runs as each VM's guest in its own worker. */
export type Scenario = z.input<typeof scenarioShape> & {
  /** The guest's script. The run fails if it rejects or throws. */
  guest(vm: GuestVm): Promise<void>;
  /**
   * The script of a VM after its migration, on the new host. `state` is the value that `work` of `vm.migrate` returned.
   * Without `resume`, the scenario's VMs cannot migrate.
   */
  resume?(vm: GuestVm, state: unknown): Promise<void>;
};

/** Gives a scenario file's default export its type. The values are checked when the file is loaded. */
export const scenario = (definition: Scenario): Scenario => definition;

/** Thrown for an invalid scenario. The message names what is wrong and what is accepted. */
export class ScenarioError extends Error {
  override name = 'ScenarioError';
}

/** Checks a loaded module's default export. @throws ScenarioError */
export function checkScenario(module: { readonly default?: unknown }): {
  settings: ScenarioSettings;
  /** Names of the declared parameters; undefined if the scenario declares none and takes any. */
  parameters: readonly string[] | undefined;
  guest: Scenario['guest'];
  resume: Scenario['resume'];
} {
  const exported = module.default;
  if (typeof exported !== 'object' || exported === null)
    throw new ScenarioError('the file has no default export: it must be scenario({ … })');
  const { guest, resume, ...settings } = exported as Record<string, unknown>;
  if (typeof guest !== 'function') throw new ScenarioError('guest is not a function');
  if (resume !== undefined && typeof resume !== 'function')
    throw new ScenarioError('resume is not a function');
  const parsed = parseSettings(settings);
  return {
    settings: parsed,
    parameters: settings.params === undefined ? undefined : Object.keys(parsed.params),
    guest: guest as Scenario['guest'],
    resume: resume as Scenario['resume'],
  };
}

/** Limits of the message about invalid settings. */
const PROBLEMS_SHOWN = 10;
const PROBLEM_LENGTH_LIMIT = 300;

/** Parses settings. @throws ScenarioError naming each invalid setting and its accepted range */
export function parseSettings(settings: unknown): ScenarioSettings {
  const parsed = scenarioShape.safeParse(settings);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) =>
    boundedText(`${path.join('.') || 'scenario'}: ${message}`, PROBLEM_LENGTH_LIMIT),
  );
  const more = problems.length - PROBLEMS_SHOWN;
  const shown = problems.slice(0, PROBLEMS_SHOWN).join('; ');
  throw new ScenarioError(more > 0 ? `${shown}; and ${more} more` : shown);
}
