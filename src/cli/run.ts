/**
 * `mdevsim run`: settings from the file and the command line, progress on stderr, the summary on stdout.
 */
import { progressColours } from '../report/colours.ts';
import { ExitCode, summaryText } from '../report/summary.ts';
import type { FleetProgress } from '../scenario/fleet.ts';
import { loadSettings } from '../scenario/load.ts';
import { runScenario } from '../scenario/run.ts';
import { parseSettings, type ScenarioSettings } from '../scenario/scenario.ts';

/** The command's options, as parsed. */
export interface RunFlags {
  readonly vms?: number;
  readonly vgpus?: number;
  readonly ram?: number;
  readonly viommu?: string;
  readonly processes: number;
  readonly seed?: number;
  readonly timeout?: number;
  readonly param: Readonly<Record<string, unknown>>;
  readonly inject: string;
  readonly trace: string;
  readonly json?: boolean;
}

/** Runs a scenario; resolves to the exit code. @throws ScenarioError, CapacityError */
export async function runCommand(path: string, flags: RunFlags): Promise<ExitCode> {
  const settings = override(await loadSettings(path), flags);
  const progress = new ProgressLine(settings);
  let interrupted = false;
  let kill = () => {};
  const onSignal = () => {
    interrupted = true;
    kill();
  };
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  const summary = await runScenario({
    path,
    settings,
    processes: flags.processes,
    seed: flags.seed,
    inject: flags.inject,
    trace: flags.trace,
    onProgress: (now) => progress.show(now),
    onStart: (killRun) => {
      kill = killRun;
    },
  });
  progress.end();
  process.off('SIGINT', onSignal);
  process.off('SIGTERM', onSignal);
  process.stdout.write(flags.json ? `${JSON.stringify(summary, null, 2)}\n` : summaryText(summary));
  return interrupted ? ExitCode.interrupted : summary.exitCode;
}

function override(settings: ScenarioSettings, flags: RunFlags): ScenarioSettings {
  return parseSettings({
    ...settings,
    vms: flags.vms ?? settings.vms,
    vgpus: flags.vgpus ?? settings.vgpus,
    ramMiB: flags.ram ?? settings.ramMiB,
    viommu: flags.viommu ?? settings.viommu,
    timeoutMs: flags.timeout ?? settings.timeoutMs,
    params: { ...settings.params, ...flags.param },
  });
}

/** One line that is rewritten on a terminal; elsewhere a line when the phase changes. */
class ProgressLine {
  readonly #settings: ScenarioSettings;
  readonly #live = process.stderr.isTTY === true;
  #phase = '';

  constructor(settings: ScenarioSettings) {
    this.#settings = settings;
  }

  show({ devicesReady, vmsDone, operations, bytesVerified, phase }: FleetProgress): void {
    const { vms, vgpus } = this.#settings;
    const state =
      operations === 0 && devicesReady < vms * vgpus
        ? `starting: ${devicesReady}/${vms * vgpus} vGPUs ready`
        : `${phase}: ${vmsDone}/${vms} VMs done, ${operations} operations, ${(bytesVerified / 2 ** 20).toFixed(0)} MiB verified`;
    if (this.#live) process.stderr.write(`\r\u001b[K${progressColours.dim(state)}`);
    else if (phase !== this.#phase) process.stderr.write(`${state}\n`);
    this.#phase = phase;
  }

  end(): void {
    if (this.#live) process.stderr.write('\r\u001b[K');
  }
}
