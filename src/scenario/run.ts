/**
 * One run from settings to summary: capacity check, sharding over host processes, merge, verdict.
 */
import { closeSync, openSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { drawSeed, nowUs } from '#host';
import { MODEL_FAULTS } from '../coordinator/vm/worker-tasks.ts';
import { checkCapacity } from '../coordinator/workers/capacity.ts';
import { DEFAULT_MODEL } from '../coordinator/workers/supervisor.ts';
import { SysfsTree } from '../mdev/sysfs.ts';
import { type DiskWrite, SysfsDisk } from '../mdev/sysfs-disk.ts';
import { SysfsServer } from '../mdev/sysfs-server.ts';
import type { FrameBodies } from '../proto/schema.ts';
import { type RunSummary, summarize } from '../report/summary.ts';
import { HostProcesses, type HostProcessesProgress } from './host-processes.ts';
import { HostSockets } from './host-sockets.ts';
import { scenarioUrl } from './load.ts';
import { RunMdevs } from './run-mdevs.ts';
import { ScenarioError, type ScenarioSettings } from './scenario.ts';
import { type ResolvedModel, resolveModel } from './try-model.ts';

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
  /** Where the run's sysfs tree is written and kept true; empty: nowhere. */
  readonly sysfs: string;
  /** The tree is there, with so many paths. */
  onSysfs(paths: number): void;
  /** Somebody has written to it. */
  onSysfsWrite(write: DiskWrite): void;
  /** It cannot be kept true any longer; the run goes on. */
  onSysfsLost(error: Error): void;
  onProgress(progress: HostProcessesProgress): void;
  /** Given a function that ends the run at once. */
  onStart(kill: () => void): void;
}

/**
 * @throws before anything is started: ScenarioError, CapacityError, SysfsDiskError, the file system's own errors (trace
 *   and sysfs)
 */
export async function runScenario(options: RunOptions): Promise<RunSummary> {
  const { settings, inject } = options;
  if (inject !== '' && !INJECTIONS.includes(inject))
    throw new ScenarioError(`no injection '${inject}'; accepted: ${INJECTIONS.join(', ')}`);
  const sound = NO_INVALIDATIONS[settings.viommu];
  if (inject === 'skip-invalidation' && sound !== undefined)
    throw new ScenarioError(`skip-invalidation needs invalidations: ${sound}`);
  if (MODEL_FAULTS.has(inject) && settings.model !== DEFAULT_MODEL)
    throw new ScenarioError(
      `${inject} is a fault of '${DEFAULT_MODEL}'; the model of this run is ${settings.model}`,
    );
  const model = await resolveModel(settings.model);
  if (settings.viommu === 'spapr' && settings.ramMiB > SPAPR_RAM_MIB_MAX)
    throw new ScenarioError(
      `ramMiB: ${settings.ramMiB} behind spapr, which maps RAM by pages; accepted: up to ${SPAPR_RAM_MIB_MAX}`,
    );
  // Killing the only host process would leave nobody to show that the others are unharmed.
  const wanted = inject === 'host-kill' ? Math.max(2, options.processes) : options.processes;
  const processes = Math.max(settings.hosts, Math.min(wanted, settings.vms));
  const seed = options.seed ?? drawSeed();
  const mdevs = new RunMdevs(settings, dirname(resolve(options.path)), seed);
  const vgpus = mdevs.vgpusMax;
  // Where VMs migrate, one process may come to have them all.
  const fewest = settings.hosts > 1 ? 1 : processes;
  checkCapacity({ ...settings, vgpus, processes: fewest, ramBytes: settings.ramMiB * 2 ** 20 });
  const since = nowUs();
  const shards = shard(options, processes, seed, mdevs, model);
  for (const { trace } of shards) if (trace !== '') closeSync(openSync(trace, 'w')); // better told now than later
  const passages = new HostSockets(settings.hosts > 1 ? processes : 0);
  const migrations = { sockets: passages.sockets, vmsMax: settings.vms, devicesMax: settings.vms * vgpus };
  const requests = passages.exist ? shards.map((request) => ({ ...request, migrations })) : shards;
  const baseline = new HostProcesses({
    requests:
      settings.baselineWorkers > 0
        ? [baselineRequest(requests[0] as RunRequest, settings.baselineWorkers)]
        : [],
    onProgress: () => {},
    killAfterOperations: undefined,
  });
  const fleet = new HostProcesses({
    requests,
    onProgress: options.onProgress,
    killAfterOperations: inject === 'host-kill' ? KILL_AFTER_OPERATIONS : undefined,
    onReleased: (vm, device) => mdevs.close({ vm, device }),
    onVmEnded: (vm) => mdevs.closeVm(vm),
  });
  mdevs.openAll(({ vm, device }, uuid) => fleet.tell(vm, device, 'deviceRequest', { uuid }));
  const stopSysfs = serveSysfs(options, mdevs);
  options.onStart(() => {
    baseline.kill();
    fleet.kill();
  });
  // In a process of its own that has started nothing else, and before the others, for the machine to be quiet.
  const { hosts: baselineHosts } = await baseline.run();
  const { results, lost, hosts } = await fleet.run();
  await stopSysfs();
  passages.remove();
  const facts = {
    scenario: settings.name,
    vms: settings.vms,
    vgpus,
    uneven: mdevs.isUneven,
    processes,
    seed,
    inject,
    wallSeconds: (nowUs() - since) / 1e6,
  };
  return summarize(facts, results, lost, [...hosts, ...baselineHosts]);
}

/** Writes the run's tree and keeps it true until the function that is returned is called; the tree then stays. */
function serveSysfs(options: RunOptions, { registry }: RunMdevs): () => Promise<void> {
  if (options.sysfs === '') return async () => {};
  const disk = new SysfsDisk(options.sysfs, new SysfsTree(registry));
  options.onSysfs(disk.entryCount);
  const server = new SysfsServer(disk, options.onSysfsWrite);
  const ended = server.run().catch(options.onSysfsLost);
  return () => {
    server.stop();
    return ended;
  };
}

const baselineRequest = (like: RunRequest, baselineWorkers: number): RunRequest => ({
  ...like,
  vms: [],
  baselineWorkers,
  trace: '',
});

/** Divides the VMs over the processes, contiguous and as even as can be; with fewer VMs than processes, the last have none. */
function shard(
  options: RunOptions,
  processes: number,
  seed: number,
  mdevs: RunMdevs,
  model: ResolvedModel,
): RunRequest[] {
  const { settings } = options;
  const scenario = scenarioUrl(options.path);
  return Array.from({ length: processes }, (_, process) => {
    const first = Math.ceil((process * settings.vms) / processes);
    const end = Math.ceil(((process + 1) * settings.vms) / processes);
    const vms = Array.from({ length: end - first }, (_, i) => first + i);
    return {
      scenario,
      process,
      vms,
      vgpus: mdevs.vgpusMax,
      mdevs: mdevs.mdevsOf(vms),
      seed,
      ramMib: settings.ramMiB,
      timeoutMs: settings.timeoutMs,
      inject: options.inject,
      trace: options.trace === '' || processes === 1 ? options.trace : `${options.trace}.${process}`,
      viommu: settings.viommu,
      device: { ...model, timeoutMs: settings.deviceTimeoutMs },
      baselineWorkers: 0,
      params: JSON.stringify(settings.params),
      gpu: settings.gpu,
    };
  });
}
