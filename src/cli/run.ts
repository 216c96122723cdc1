/**
 * `mdevsim run`: takes settings from the file and the command line, prints progress on stderr and the summary on stdout.
 */
import { resolve } from 'node:path';
import { after, wallMs } from '#host';
import { writeText } from '../mdev/sysfs-server.ts';
import type { Shard } from '../report/record.ts';
import { ExitCode, summarize } from '../report/summary.ts';
import { type LoadedScenario, loadSettings } from '../scenario/load.ts';
import { unknownParam } from '../scenario/params.ts';
import { type RunningRun, runScenario } from '../scenario/run.ts';
import { recordOf } from '../scenario/run-record.ts';
import { parseSettings, ScenarioError, type ScenarioSettings } from '../scenario/scenario.ts';
import { shardText } from '../scenario/shard.ts';
import { startDashboard } from './dashboard.ts';
import { onInterrupt } from './interrupts.ts';
import { checkOutputs, OutputError, wantsBlob, wantsIterations } from './outputs.ts';
import { programName } from './package-version.ts';
import { type PrintFlags, printRecord } from './print-record.ts';
import { type Progress, progressOf } from './progress.ts';
import { repeatCommand } from './repeat-command.ts';

/** Time limit for the end of a run after a second signal; after that the command exits. */
const KILLED_EXIT_MS = 5_000;

/** The command's options, as parsed. */
interface RunFlags extends PrintFlags {
  readonly vms?: number;
  readonly vgpus?: number;
  readonly ram?: number;
  readonly viommu?: string;
  readonly processes: number;
  readonly seed?: number;
  readonly timeout?: number;
  readonly model?: string;
  readonly deviceTimeout?: number;
  readonly param: Readonly<Record<string, unknown>>;
  readonly inject: string;
  readonly trace: string;
  readonly artifacts: string;
  readonly sysfs: string;
  readonly shard?: Shard;
  readonly quiet?: boolean;
  /** Port of the dashboard; true for any free one. */
  readonly dashboard?: number | true;
}

/** Runs a scenario; resolves to the exit code. @throws ScenarioError, CapacityError, SysfsDiskError, OutputError */
export async function runCommand(path: string, flags: RunFlags): Promise<ExitCode> {
  checkOutputs(flags.out, flags.json === true);
  if (flags.shard && !wantsBlob(flags.out))
    throw new OutputError(`--shard ${shardText(flags.shard)} without --out blob=PATH, which a merge needs`);
  let running: RunningRun | undefined;
  let progress: Progress | undefined;
  const restore = onInterrupt({
    onFirst: (signal) => {
      if (!running) endBeforeStart(path, signal, flags);
      const line = `interrupted by ${signal}: stopping the guests; a second signal ends at once\n`;
      if (progress) progress.warn(line);
      else process.stderr.write(line);
      running?.interrupt(signal);
    },
    onFurther: () => {
      progress?.end();
      running?.kill();
      after(KILLED_EXIT_MS, () => process.exit(ExitCode.interrupted));
    },
  });
  const loaded = await loadSettings(path);
  const settings = override(loaded, flags);
  const shown = await progressOf({
    title: settings.name,
    quiet: flags.quiet === true,
    load: () => running?.live(),
  });
  progress = shown;
  const dashboard = await startDashboard(flags.dashboard);
  const { record, blob } = await runScenario({
    path,
    settings,
    hasDirector: loaded.hasDirector === true,
    program: programName(),
    commandFor: (seed) => repeatCommand(path, flags, seed),
    processes: flags.processes,
    seed: flags.seed,
    inject: flags.inject,
    trace: flags.trace,
    artifacts: flags.artifacts,
    sysfs: flags.sysfs,
    shard: flags.shard,
    wantsBlob: wantsBlob(flags.out),
    wantsIterations: wantsIterations(flags.out),
    onSysfs: (paths) =>
      shown.print(
        `${paths} paths below ${resolve(flags.sysfs, 'sys')}\nMDEVCTL_ENV_ROOT=${resolve(flags.sysfs)} mdevctl list\n`,
      ),
    onSysfsWrite: (write) => shown.print(writeText(write)),
    onSysfsLost: (error) =>
      shown.warn(`the tree below ${flags.sysfs} is no longer updated: ${error.message}\n`),
    onProgress: (now) => shown.show(now),
    onOutput: shown.takesOutput ? (text) => shown.print(text) : undefined,
    onStart: (run) => {
      running = run;
      dashboard?.show(run);
    },
  });
  shown.end();
  restore();
  printRecord(record, flags, blob);
  await dashboard?.end(record);
  return record.exitCode;
}

/** Ends the command for a signal before anything was started. A scenario that loads may keep a thread busy. */
function endBeforeStart(path: string, signal: string, flags: RunFlags): never {
  const facts = {
    scenario: path,
    vms: 0,
    vgpus: 0,
    processes: 0,
    seed: 0,
    inject: '',
    wallSeconds: 0,
    folder: '',
  };
  const summary = summarize({ ...facts, interrupted: true }, new Map(), [], []);
  const origin = {
    program: programName(),
    command: repeatCommand(path, flags, flags.seed),
    startedMs: wallMs(),
    clockStartSeconds: 0,
    shard: null,
  };
  const history = { results: new Map(), lost: [], events: [], eventsCut: 0, timelines: [], iterations: [] };
  const record = recordOf(parseSettings({ name: 'not started' }), origin, summary, history);
  if (flags.json || flags.out.length > 0) printRecord(record, flags);
  process.stderr.write(`mdevsim: INTERRUPTED by ${signal} before the run has started\n`);
  process.exit(summary.exitCode);
}

/** Returns the settings with the command line's values. @throws ScenarioError */
function override({ settings, parameters }: LoadedScenario, flags: RunFlags): ScenarioSettings {
  const unknown = unknownParam(flags.param, parameters);
  if (unknown !== '') throw new ScenarioError(unknown);
  if (flags.vgpus !== undefined && settings.mdevs !== undefined)
    throw new ScenarioError(`--vgpus ${flags.vgpus}: the scenario's mdevs determine the count`);
  return parseSettings({
    ...settings,
    vms: flags.vms ?? settings.vms,
    vgpus: flags.vgpus ?? settings.vgpus,
    ramMiB: flags.ram ?? settings.ramMiB,
    viommu: flags.viommu ?? settings.viommu,
    timeoutMs: flags.timeout ?? settings.timeoutMs,
    model: flags.model ?? settings.model,
    deviceTimeoutMs: flags.deviceTimeout ?? settings.deviceTimeoutMs,
    params: { ...settings.params, ...flags.param },
  });
}
