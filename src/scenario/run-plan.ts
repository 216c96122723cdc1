/**
 * The plan of a run: checks the settings against each other and against this machine, and divides the VMs over host
 * processes.
 */
import { dirname, join, resolve } from 'node:path';
import { drawSeed } from '#host';
import { MODEL_FAULTS } from '../coordinator/vm/worker-tasks.ts';
import { checkCapacity } from '../coordinator/workers/capacity.ts';
import { DEFAULT_MODEL } from '../coordinator/workers/supervisor.ts';
import { SPAPR_RAM_MIB_MAX } from '../load/check.ts';
import { compileLoad, endOf, type Stage } from '../load/compile.ts';
import { type GroupVm, vmsOf } from '../load/groups.ts';
import type { VmLoad } from '../load/guest/load-run.ts';
import type { FrameBodies } from '../proto/schema.ts';
import type { Shard } from '../report/record.ts';
import { counted } from '../report/text.ts';
import { isDataFile } from './data-path.ts';
import { scenarioUrl } from './load.ts';
import { RunMdevs } from './run-mdevs.ts';
import { checkSettings, ScenarioError, type ScenarioSettings } from './scenario.ts';
import { isInShard, shardText } from './shard.ts';
import { traceFiles } from './trace-files.ts';
import { type ResolvedModel, resolveModel } from './try-model.ts';

/** Folder below the working directory with a folder for each run. */
const RUNS_FOLDER = 'mdevsim-runs';

/** Bounds of the iterations a second in the sample of a VM; between them, many VMs have fewer. */
const SAMPLED_MIN = 4;
const SAMPLED_MAX = 256;
const SAMPLED = 4096;

export type RunRequest = FrameBodies['runRequest'];

/** All faults that `--inject` can inject. */
export const INJECTIONS: readonly string[] = [...MODEL_FAULTS, 'skip-invalidation', 'host-kill'];

/** Reasons why no invalidation can be skipped, by vIOMMU. */
const NO_INVALIDATIONS: Readonly<Record<string, string>> = {
  none: 'this scenario has no vIOMMU',
  virtio: 'virtio-iommu has none, its UNMAP is the change itself',
  spapr: 'sPAPR has none, a changed TCE takes effect at once',
};

/** Options that determine the plan of a run. */
export interface PlanOptions {
  /** Path of the scenario's file. */
  readonly path: string;
  readonly settings: ScenarioSettings;
  /** True if the scenario has a function `director`. */
  readonly hasDirector?: boolean;
  readonly processes: number;
  /** If undefined, a seed is drawn. */
  readonly seed: number | undefined;
  /** Fault to inject; empty for none. */
  readonly inject: string;
  /** Folder of the files that scripts write; by default one below the working directory, with the run's name and seed. */
  readonly artifacts: string;
  /** Trace file, empty for none. With several processes, `.0`, `.1`, … is appended. */
  readonly trace: string;
  /** The part of the VMs that runs here; undefined for a whole run. */
  readonly shard?: Shard | undefined;
  /** True if iterations must be sampled for a timeline. */
  readonly wantsIterations: boolean;
}

/** The parts of a plan that are the same for all its requests. */
interface PlannedParts extends Omit<RunPlan, 'requests'> {
  /** The VMs that run here. */
  readonly members: readonly GroupVm[];
  readonly processes: number;
  readonly model: ResolvedModel;
}

export interface RunPlan {
  readonly seed: number;
  /** Folder of the files that scripts write, as an absolute path. */
  readonly folder: string;
  readonly mdevs: RunMdevs;
  /** One request per host process. */
  readonly requests: readonly RunRequest[];
}

/** Plans a run, without any lasting effect. @throws ScenarioError, CapacityError */
export async function planRun(options: PlanOptions): Promise<RunPlan> {
  const { path, settings, inject } = options;
  const all = vmsOf(settings);
  checkInjection(inject, { ...settings, viommu: all[0]?.viommu ?? settings.viommu });
  checkShard(options);
  const members = all.filter(({ vm }) => isInShard(vm, options.shard));
  const model = await resolveModel(settings.model);
  checkSettings(settings);
  if (settings.viommu === 'spapr' && settings.ramMiB > SPAPR_RAM_MIB_MAX)
    throw new ScenarioError(
      `ramMiB: ${settings.ramMiB} behind spapr, which maps RAM by pages; accepted: up to ${SPAPR_RAM_MIB_MAX}`,
    );
  // host-kill needs a second host process, to show that its VMs are unharmed.
  const wanted = inject === 'host-kill' ? Math.max(2, options.processes) : options.processes;
  const processes = Math.max(settings.hosts, Math.min(wanted, members.length));
  const seed = options.seed ?? drawSeed();
  const mdevs = new RunMdevs(settings, dirname(resolve(path)), seed);
  // With migrations, one process may hold all VMs at some time.
  const fewest = settings.hosts > 1 ? 1 : processes;
  checkCapacity({
    ...settings,
    vms: members.length,
    vgpus: mdevs.vgpusMax,
    processes: fewest,
    // On average: unlike VMs need no more than as many equal ones.
    ramBytes: (members.reduce((sum, { ramMiB }) => sum + ramMiB, 0) / members.length) * 2 ** 20,
  });
  const folder = resolve(
    options.artifacts || join(RUNS_FOLDER, `${settings.name.replace(/[^\w.-]+/g, '-')}-${seed}`),
  );
  const parts = { members, processes, seed, folder, mdevs, model };
  return { seed, folder, mdevs, requests: requestsOf(options, parts) };
}

/** @throws ScenarioError for a shard that could not be merged */
function checkShard({ shard, settings, seed, inject, hasDirector }: PlanOptions): void {
  if (!shard) return;
  const at = `shard ${shardText(shard)}`;
  if (hasDirector)
    throw new ScenarioError(`${at} of a scenario with director(run), which sees all VMs; accepted: events`);
  if (shard.count > settings.vms)
    throw new ScenarioError(
      `${at} of ${counted(settings.vms, 'VM')}; accepted: at most ${counted(settings.vms, 'shard')}`,
    );
  if (seed === undefined && shard.count > 1)
    throw new ScenarioError(`${at} without a seed; accepted: --seed N, the same for all shards`);
  if (inject !== '') throw new ScenarioError(`${inject} in ${at}; accepted: faults in whole runs`);
}

/** @throws ScenarioError for an unknown fault, or one that this run cannot have */
function checkInjection(
  inject: string,
  { viommu, model }: { readonly viommu: string; readonly model: string },
): void {
  if (inject !== '' && !INJECTIONS.includes(inject))
    throw new ScenarioError(`unknown fault '${inject}'; accepted: ${INJECTIONS.join(', ')}`);
  const noInvalidations = NO_INVALIDATIONS[viommu];
  if (inject === 'skip-invalidation' && noInvalidations !== undefined)
    throw new ScenarioError(`skip-invalidation needs invalidations: ${noInvalidations}`);
  if (MODEL_FAULTS.has(inject) && model !== DEFAULT_MODEL)
    throw new ScenarioError(`${inject} is a fault of '${DEFAULT_MODEL}'; the model of this run is ${model}`);
}

/**
 * Divides the VMs over the processes, contiguously and as evenly as possible. With fewer VMs than processes, the last
 * processes start without VMs.
 */
function requestsOf(
  options: PlanOptions,
  { members, processes, seed, folder, mdevs, model }: PlannedParts,
): RunRequest[] {
  const { settings } = options;
  const url = scenarioUrl(options.path);
  // A data file has no script that a guest could load.
  const scenario = isDataFile(url) ? '' : url;
  const stages = compileLoad(settings.load ?? {});
  const traces = traceFiles(options.trace, processes);
  const sampled = options.wantsIterations ? sampledPerVm(settings.vms) : 0;
  return Array.from({ length: processes }, (_, process) => {
    const first = Math.ceil((process * members.length) / processes);
    const end = Math.ceil(((process + 1) * members.length) / processes);
    const own = members.slice(first, end);
    const vms = own.map(({ vm }) => vm);
    return {
      scenario,
      process,
      vms,
      vgpus: mdevs.vgpusMax,
      mdevs: mdevs.mdevsOf(vms),
      seed,
      ramMib: Math.max(...members.map(({ ramMiB }) => ramMiB)),
      timeoutMs: settings.timeoutMs + Math.ceil(Math.max(0, ...stages.map(endOf)) / 1000),
      inject: options.inject,
      trace: traces[process] as string,
      viommu: settings.viommu,
      device: { ...model, timeoutMs: settings.deviceTimeoutMs },
      baselineWorkers: 0,
      params: JSON.stringify(settings.params),
      gpu: settings.gpu,
      folder,
      vmSettings: own.map((member) => vmSettings(member, settings.vms, stages, sampled)),
    };
  });
}

/** Returns the most iterations a second that a VM samples. @param vms count of all VMs */
const sampledPerVm = (vms: number): number =>
  Math.min(SAMPLED_MAX, Math.max(SAMPLED_MIN, Math.floor(SAMPLED / vms)));

/**
 * Returns the settings of a VM, and its part of the declared load.
 * @param vms count of all VMs
 * @param sampled maximum count of sampled iterations a second
 */
function vmSettings(
  { vm, name, share, ramMiB, viommu, iommu, types, bootUs }: GroupVm,
  vms: number,
  stages: readonly Stage[],
  sampled: number,
): RunRequest['vmSettings'][number] {
  const own = stages
    .filter(({ group = name }) => group === name)
    .map((stage) => ({ ...stage, share: stage.group === undefined ? { index: vm, count: vms } : share }));
  const load: VmLoad = { iommu, stages: own, sampled };
  return {
    vm,
    load: stages.length > 0 ? JSON.stringify(load) : '',
    ramMib: ramMiB,
    viommu,
    types: [...types],
    bootUs,
  };
}
