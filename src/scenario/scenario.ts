/**
 * What a scenario file exports: how large the run is, and what each guest does.
 */
import { z } from 'zod';
import { DEFAULT_MODEL, DEVICE_TIMEOUT_MS } from '../coordinator/workers/supervisor.ts';
import { DEFAULT_SCHEDULING, POLICIES, SLICE_US_MAX, SLICE_US_MIN } from '../gpu/policy.ts';
import { DEFAULT_VGPU_TYPE, VGPU_TYPES } from '../gpu/types.ts';
import type { GuestVm } from '../guest/guest-vm.ts';

/** Limits of a run; more than a machine of any size would start. */
export const VMS_LIMIT = 1024;
export const VGPUS_LIMIT = 31; // one bus: device numbers 1 to 31
export const RAM_MIB_MIN = 8;
export const RAM_MIB_MAX = 4096;

/** Host processes of a run. */
export const HOSTS_LIMIT = 64;

/** The words that choose a VM's vIOMMU. */
export const VIOMMUS = ['none', 'intel', 'intel-scalable', 'virtio', 'spapr'] as const;

/** Where mdevctl's definitions are: a path from the scenario's file, or their JSON. */
const mdevSource = z.union(
  [z.string().min(1).max(4096), z.array(z.unknown()), z.record(z.string(), z.unknown())],
  "accepted: a path, or mdevctl's JSON",
);

/** How the physical GPUs are divided; their number follows from the types. */
const gpuShape = z.strictObject({
  policy: z.enum(POLICIES).default(DEFAULT_SCHEDULING.policy),
  /** Time slice, µs of engine time. */
  sliceUs: z.int().min(SLICE_US_MIN).max(SLICE_US_MAX).default(DEFAULT_SCHEDULING.sliceUs),
  /** Types of a VM's vGPUs by index; they begin anew when they end. */
  types: z
    .array(z.enum(VGPU_TYPES.map(({ id }) => id)))
    .min(1)
    .max(VGPUS_LIMIT)
    .default([DEFAULT_VGPU_TYPE]),
});

/** The numbers of a scenario; every one can be overridden on the command line. */
const scenarioShape = z.strictObject({
  name: z.string().min(1).max(64),
  /** The question a run answers, for lists and reports. */
  question: z.string().max(400).default(''),
  vms: z.int().min(1).max(VMS_LIMIT).default(1),
  vgpus: z.int().min(1).max(VGPUS_LIMIT).default(1),
  /** Definitions of the VMs' devices: one source for each VM, or one dealt out to all. Then `vgpus` does not count. */
  mdevs: mdevSource.optional(),
  /** RAM of each VM, half of it below 4 GiB. */
  ramMiB: z.int().min(RAM_MIB_MIN).max(RAM_MIB_MAX).multipleOf(4).default(64),
  viommu: z.enum(VIOMMUS).default('intel'),
  gpu: gpuShape.prefault({}),
  /** Host processes, at least: with two and more a VM can migrate to another. */
  hosts: z.int().min(1).max(HOSTS_LIMIT).default(1),
  /** Time limit of each guest's script. */
  timeoutMs: z.int().min(1).max(86_400_000).default(120_000),
  /**
   * What every device is: a built-in model's name, or the path of a file that exports one. Several names, with commas
   * between, are taken in turn by a VM's devices.
   */
  model: z.string().min(1).max(4096).default(DEFAULT_MODEL),
  /** How long a device model may be busy with one call before its device is ended. */
  deviceTimeoutMs: z.int().min(100).max(3_600_000).default(DEVICE_TIMEOUT_MS),
  /** Baseline workers to measure beside the devices; 0 for none. */
  baselineWorkers: z.int().min(0).max(256).default(0),
  /** Handed to the guests as `vm.params`. */
  params: z.record(z.string(), z.unknown()).default({}),
});

export type ScenarioSettings = z.infer<typeof scenarioShape>;

/** A scenario: settings and the script that runs as each VM's guest, in a worker of its own. */
export type Scenario = z.input<typeof scenarioShape> & {
  /** Rejecting, or throwing, fails the run. */
  guest(vm: GuestVm): Promise<void>;
  /**
   * The script of a VM that has migrated, at its new host: `state` is what `work` of `vm.migrate` has returned. Without
   * it the VMs of the scenario cannot migrate.
   */
  resume?(vm: GuestVm, state: unknown): Promise<void>;
};

/** Types a scenario file's default export. Checked when the file is loaded. */
export const scenario = (definition: Scenario): Scenario => definition;

/** Thrown for a scenario that cannot be used, with what is wrong and what is accepted. */
export class ScenarioError extends Error {
  override name = 'ScenarioError';
}

/** Checks a loaded module's default export. @throws ScenarioError */
export function checkScenario(module: { readonly default?: unknown }): {
  settings: ScenarioSettings;
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
  return {
    settings: parseSettings(settings),
    guest: guest as Scenario['guest'],
    resume: resume as Scenario['resume'],
  };
}

/** @throws ScenarioError naming every setting that is wrong and its accepted range */
export function parseSettings(settings: unknown): ScenarioSettings {
  const parsed = scenarioShape.safeParse(settings);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(
    ({ path, message }) => `${path.join('.') || 'scenario'}: ${message}`,
  );
  throw new ScenarioError(problems.join('; '));
}
