/**
 * One run from settings to summary: capacity check, sharding over host processes, merge, verdict.
 */
import { closeSync, openSync } from 'node:fs';
import { drawSeed, nowUs } from '#host';
import type { FrameBodies } from '../channel/schema.ts';
import { checkCapacity } from '../coordinator/limits.ts';
import { MODEL_FAULTS } from '../coordinator/vm.ts';
import { type RunSummary, summarize } from '../report/summary.ts';
import { Fleet, type FleetProgress } from './fleet.ts';
import { scenarioUrl } from './load.ts';
import { ScenarioError, type ScenarioSettings } from './scenario.ts';

type RunRequest = FrameBodies['runRequest'];

/** Every deliberate fault that `--inject` knows. */
export const INJECTIONS: readonly string[] = [...MODEL_FAULTS, 'skip-invalidation', 'host-kill'];

/** vIOMMUs of which no invalidation can be skipped, and why. */
const NO_INVALIDATIONS: Readonly<Partial<Record<ScenarioSettings['viommu'], string>>> = {
  none: 'this scenario has no vIOMMU',
  virtio: 'virtio-iommu has none, its UNMAP is the change itself',
  spapr: 'sPAPR has none, a changed TCE counts at once',
};

/** RAM is mapped by a TCE per 4 KiB in front of every vGPU: VGPUS_LIMIT of them stay below the platform's 2^20 TCEs. */
const SPAPR_RAM_MIB_MAX = 128;

export const PROCESSES_LIMIT = 64;

/** Operations of the doomed host process before `host-kill` strikes: it is then under load. */
const KILL_AFTER_OPERATIONS = 50;

export interface RunOptions {
  readonly path: string;
  readonly settings: ScenarioSettings;
  readonly processes: number;
  /** Undefined: one is drawn, and printed. */
  readonly seed: number | undefined;
  readonly inject: string;
  /** Trace file; with several processes, `.0`, `.1`, … is appended. */
  readonly trace: string;
  onProgress(progress: FleetProgress): void;
  /** Given a function that ends the run at once. */
  onStart(kill: () => void): void;
}

/** @throws ScenarioError, CapacityError, the error of `open` (trace) before anything is started */
export async function runScenario(options: RunOptions): Promise<RunSummary> {
  const { settings, inject } = options;
  if (inject !== '' && !INJECTIONS.includes(inject))
    throw new ScenarioError(`no injection '${inject}'; accepted: ${INJECTIONS.join(', ')}`);
  const sound = NO_INVALIDATIONS[settings.viommu];
  if (inject === 'skip-invalidation' && sound !== undefined)
    throw new ScenarioError(`skip-invalidation needs invalidations: ${sound}`);
  if (settings.viommu === 'spapr' && settings.ramMiB > SPAPR_RAM_MIB_MAX)
    throw new ScenarioError(
      `ramMiB: ${settings.ramMiB} behind spapr, which maps RAM by pages; accepted: up to ${SPAPR_RAM_MIB_MAX}`,
    );
  // Killing the only host process would leave nobody to show that the others are unharmed.
  const wanted = inject === 'host-kill' ? Math.max(2, options.processes) : options.processes;
  const processes = Math.min(wanted, settings.vms);
  checkCapacity({ ...settings, processes, ramBytes: settings.ramMiB * 2 ** 20 });
  const seed = options.seed ?? drawSeed();
  const since = nowUs();
  const requests = shard(options, processes, seed);
  for (const { trace } of requests) if (trace !== '') closeSync(openSync(trace, 'w')); // better told now than later
  const bare = new Fleet({
    requests: settings.bareWorkers > 0 ? [bareRequest(requests[0] as RunRequest, settings.bareWorkers)] : [],
    onProgress: () => {},
    killAfterOperations: undefined,
  });
  const fleet = new Fleet({
    requests,
    onProgress: options.onProgress,
    killAfterOperations: inject === 'host-kill' ? KILL_AFTER_OPERATIONS : undefined,
  });
  options.onStart(() => {
    bare.kill();
    fleet.kill();
  });
  // In a process of its own that has started nothing else, and before the others, for the machine to be quiet.
  const { hosts: bareHosts } = await bare.run();
  const { results, lost, hosts } = await fleet.run();
  const facts = {
    scenario: settings.name,
    vms: settings.vms,
    vgpus: settings.vgpus,
    processes,
    seed,
    inject,
    wallSeconds: (nowUs() - since) / 1e6,
  };
  return summarize(facts, results, lost, [...hosts, ...bareHosts]);
}

const bareRequest = (like: RunRequest, bareWorkers: number): RunRequest => ({
  ...like,
  vms: [],
  bareWorkers,
  trace: '',
});

/** Divides the VMs over the processes, contiguous and as even as can be. */
function shard(options: RunOptions, processes: number, seed: number): RunRequest[] {
  const { settings } = options;
  const scenario = scenarioUrl(options.path);
  return Array.from({ length: processes }, (_, process) => {
    const first = Math.floor((process * settings.vms) / processes);
    const end = Math.floor(((process + 1) * settings.vms) / processes);
    return {
      scenario,
      process,
      vms: Array.from({ length: end - first }, (_, i) => first + i),
      vgpus: settings.vgpus,
      seed,
      ramMib: settings.ramMiB,
      timeoutMs: settings.timeoutMs,
      inject: options.inject,
      trace: options.trace === '' || processes === 1 ? options.trace : `${options.trace}.${process}`,
      viommu: settings.viommu,
      bareWorkers: 0,
      params: JSON.stringify(settings.params),
    };
  });
}
