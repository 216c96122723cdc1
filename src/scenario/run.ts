/**
 * One run of a scenario, from its settings to its summary: plan, start, collect.
 */
import { existsSync } from 'node:fs';
import { nowUs, wallMs } from '#host';
import type { LiveRecord } from '../report/html/live-page.ts';
import type { LiveLoad } from '../report/live.ts';
import type { RunRecord } from '../report/record.ts';
import { summarize } from '../report/summary.ts';
import { encodeBlob } from './blob.ts';
import { HostProcesses, type RunProgress } from './host-processes.ts';
import { LiveRun } from './live-run.ts';
import { scenarioUrl } from './load.ts';
import { RunLoad } from './run-load.ts';
import { type PlanOptions, planRun, type RunPlan, type RunRequest } from './run-plan.ts';
import { recordOf } from './run-record.ts';
import { type RunSysfsOptions, serveSysfs } from './run-sysfs.ts';
import type { ScenarioSettings } from './scenario.ts';
import { scriptDigest } from './script-digest.ts';
import { shardText } from './shard.ts';
import { SocketDirectory } from './socket-directory.ts';
import { createTraceFiles } from './trace-files.ts';

/** Operations after which `host-kill` kills its host process, which is then under load. */
const KILL_AFTER_OPERATIONS = 50;

interface RunOptions extends PlanOptions, RunSysfsOptions {
  /** Name and version of the program. */
  readonly program: string;
  /** True if the result must have a blob. */
  readonly wantsBlob: boolean;
  /** Returns the command line that repeats the run. */
  commandFor(seed: number): string;
  onProgress(progress: RunProgress): void;
  /** Called with the output of scripts and models; by default it goes to stderr. */
  readonly onOutput?: ((text: string) => void) | undefined;
  /** Called before the first process starts. */
  onStart(run: RunningRun): void;
}

/** A run that can be shown and interrupted. */
export interface RunningRun {
  /** Returns the state of the load now. */
  live(): LiveLoad;
  /** Stops the guests and their devices in order. The summary has what was done. */
  interrupt(reason: string): void;
  /** Kills all host processes. */
  kill(): void;
  /** Returns what the record of the run has so far. */
  record(): LiveRecord;
  /** Resolves to a PNG of what a device displays. @throws ScreenshotError */
  screenshot(vm: number, device: number): Promise<Uint8Array>;
}

/** Result of a run. */
export interface RunResult {
  readonly record: RunRecord;
  /** The part of a merge, if it is wanted. */
  blob(): Uint8Array | undefined;
}

/** A run that is ready to start. */
interface PreparedRun {
  /** The baseline workers' process; it has no request if there are none. */
  readonly baseline: HostProcesses;
  readonly hosts: HostProcesses;
  readonly load: RunLoad;
  readonly live: LiveRun;
  /** Stops what was started beside the processes, and removes what it left. */
  cleanUp(): Promise<void>;
}

/**
 * Runs a scenario to its end; resolves to its record and its blob.
 *
 * @throws before any host process starts: ScenarioError, CapacityError, SysfsDiskError, the file system's own errors
 *   (trace and sysfs)
 */
export async function runScenario(options: RunOptions): Promise<RunResult> {
  const plan = await planRun(options);
  const startUs = nowUs();
  const startedMs = wallMs();
  const { baseline, hosts, load, live, cleanUp } = prepare(options, plan);
  let interrupted = false;
  options.onStart({
    live: () => load.live,
    interrupt: (reason) => {
      interrupted = true;
      load.interrupted(reason);
      baseline.kill();
      hosts.abort(reason);
    },
    kill: () => {
      baseline.kill();
      hosts.kill();
    },
    record: () => live.record(),
    screenshot: (vm, device) => live.screenshots.take(vm, device),
  });
  // First, in its own process: the baseline needs a quiet machine and a process that has started no other worker.
  const baselineOutcome = await baseline.run();
  const outcome = await hosts.run();
  await cleanUp();
  const { settings, inject, shard } = options;
  const part = options.wantsBlob ? load.part : undefined;
  const facts = {
    scenario: settings.name,
    folder: existsSync(plan.folder) ? plan.folder : '',
    vms: plan.requests.reduce((sum, { vms }) => sum + vms.length, 0),
    vgpus: plan.mdevs.vgpusMax,
    uneven: plan.mdevs.isUneven,
    processes: plan.requests.length,
    seed: plan.seed,
    inject,
    wallSeconds: (nowUs() - startUs) / 1e6,
    interrupted,
  };
  const report = load.end(outcome.results, outcome.hosts);
  const all = [...outcome.hosts, ...baselineOutcome.hosts];
  const whole = summarize(facts, outcome.results, outcome.lost, all, report);
  const note = shard && `shard ${shardText(shard)}: mdevsim merge judges the thresholds`;
  const summary = note === undefined ? whole : { ...whole, notes: [note, ...whole.notes] };
  const command = options.commandFor(plan.seed);
  const origin = {
    program: options.program,
    command: shard ? `${command} --shard ${shardText(shard)}` : command,
    startedMs,
    clockStartSeconds: (load.startUs - startUs) / 1e6,
    shard: shard ?? null,
  };
  const history = { ...outcome, ...load.history };
  const record = recordOf(settings, origin, summary, history);
  const blob = () =>
    part &&
    encodeBlob({
      ...history,
      record,
      command,
      script: scriptDigest(options.path),
      part,
      interrupted,
      hosts: all,
    });
  return { record, blob };
}

/** Creates the trace files, the sockets, the sysfs tree and the processes' objects; opens the VMs' mdevs. */
function prepare(options: RunOptions, { mdevs, requests }: RunPlan): PreparedRun {
  const { settings, inject } = options;
  createTraceFiles(
    options.trace,
    requests.map(({ trace }) => trace),
  );
  const directory = settings.hosts > 1 ? new SocketDirectory(requests.length) : undefined;
  const vgpus = mdevs.vms.map((devices) => devices.length);
  const load: RunLoad = new RunLoad(
    settings,
    vgpus,
    {
      start: (body) => hosts.broadcast('loadStart', body),
      stop: (body) => hosts.broadcast('loadStop', body),
      act: (...args) => hosts.act(...args),
      noMoreBoots: (vm) => hosts.noMoreBoots(vm),
    },
    {
      shard: options.shard,
      keepsPart: options.wantsBlob,
      director: options.hasDirector ? scenarioUrl(options.path) : undefined,
    },
  );
  const hosts: HostProcesses = new HostProcesses({
    requests: directory ? withMigrations(requests, directory, settings) : requests,
    onOutput: options.onOutput,
    onProgress: (now) => {
      live.progress = now;
      options.onProgress(now);
    },
    onScreenshot: (answer) => live.screenshots.answered(answer),
    killAfterOperations: inject === 'host-kill' ? KILL_AFTER_OPERATIONS : undefined,
    onReleased: (vm, device) => mdevs.close({ vm, device }),
    onReady: () => load.hostsReady(),
    onBooted: (vm) => load.booted(vm),
    onPhase: (vm, name) => load.phase(vm, name),
    onMetrics: (vm, message) => load.metrics(vm, message),
    onAddressSpaces: (vm, message) => load.addressSpaces(vm, message),
    onActed: (event, error) => load.acted(event, error),
    onVmEnded: (vm) => {
      load.ended(vm);
      mdevs.closeVm(vm);
    },
  });
  const live = new LiveRun({ settings, processes: requests.length, load, hosts });
  mdevs.openAll(
    requests.flatMap(({ vms }) => vms),
    ({ vm, device }, uuid) => hosts.requestDevice(vm, device, uuid),
  );
  const stopSysfs = serveSysfs(options, mdevs.registry);
  const baseline = new HostProcesses({
    requests: settings.baselineWorkers > 0 ? [baselineRequest(requests, settings.baselineWorkers)] : [],
    onProgress: () => {},
    killAfterOperations: undefined,
  });
  return {
    baseline,
    hosts,
    load,
    live,
    cleanUp: async () => {
      await stopSysfs();
      directory?.remove();
    },
  };
}

function withMigrations(
  requests: readonly RunRequest[],
  { sockets }: SocketDirectory,
  { vms }: ScenarioSettings,
): RunRequest[] {
  return requests.map((request) => ({
    ...request,
    migrations: { sockets, vmsMax: vms, devicesMax: vms * request.vgpus },
  }));
}

/** Returns a request like the first one, but for baseline workers in place of VMs. */
const baselineRequest = ([first]: readonly RunRequest[], baselineWorkers: number): RunRequest => ({
  ...(first as RunRequest),
  vms: [],
  baselineWorkers,
  trace: '',
});
