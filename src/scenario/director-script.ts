/**
 * The worker of a scenario's `director(run)`. It has a thread of its own, so that a script that hangs does not hang the
 * run.
 */
import { MessageChannel, Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { after, nowUs } from '#host';
import { workerEntry } from '../coordinator/workers/entries.ts';
import { vmNames } from '../load/events.ts';
import type { DirectedAction, DirectedRunParts } from './directed-run.ts';
import type { Director } from './director.ts';
import type { ScenarioSettings } from './scenario.ts';

/** V8 limits of the worker. */
const LIMITS = { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 8, stackSizeMb: 2 };

/** Input of the worker. */
export interface DirectorTask extends DirectedRunParts {
  /** URL of the scenario's file. */
  readonly scenario: string;
}

/** Calls of the worker. */
export interface DirectorControl {
  /** Carries an action out; resolves to why it was not done, or to an empty text. */
  act(action: DirectedAction): Promise<string>;
  /** Resolves when the guest of a VM has booted; at once if it does not boot. */
  booted(name: string): Promise<void>;
}

interface ScriptedRun {
  /** URL of the scenario's file; undefined if it has no function `director`. */
  readonly url: string | undefined;
  readonly director: Director;
  readonly settings: ScenarioSettings;
  /** End of the last stage on the run's clock. */
  readonly endUs: number;
}

/** Starts the script of a run, if there is one. @param startUs start of the run's clock, on the scale of `nowUs()` */
export function startScript(
  { url, director, settings, endUs }: ScriptedRun,
  startUs: number,
): DirectorScript | undefined {
  if (url === undefined) return undefined;
  const vms = vmNames(settings);
  const act: DirectorControl['act'] = async ({
    action,
    name,
    to,
    clearRam = false,
    stopsDevices = false,
  }) => {
    const member = vms.get(name);
    if (!member) return 'there is no such VM';
    return director.act({ action, vm: member.vm, name, to, clearRam, stopsDevices });
  };
  const booted: DirectorControl['booted'] = async (name) => director.whenBooted(vms.get(name)?.vm ?? -1);
  director.scriptStarted();
  const task = { scenario: url, vms: [...vms.keys()], params: settings.params, startUs };
  return new DirectorScript(task, { act, booted }, startUs + endUs, (error) => director.scriptEnded(error));
}

export class DirectorScript {
  readonly #worker: Worker;
  readonly #cancel: () => void;
  readonly #onEnd: (error: string) => void;
  #hasEnded = false;

  /**
   * Starts the script.
   * @param endUs time at which it must have ended, on the scale of `nowUs()`
   * @param onEnd called once with its error, or with an empty text
   */
  constructor(task: DirectorTask, control: DirectorControl, endUs: number, onEnd: (error: string) => void) {
    this.#onEnd = onEnd;
    const { port1, port2 } = new MessageChannel();
    Comlink.expose(control, port1 as unknown as Comlink.Endpoint);
    this.#worker = new Worker(workerEntry('director'), {
      workerData: { task, port: port2 },
      transferList: [port2],
      resourceLimits: LIMITS,
    });
    this.#worker.once('message', (error: string) => this.#end(error));
    this.#worker.once('error', (error: Error) => this.#end(error.message));
    this.#worker.once('exit', (code) => {
      port1.close();
      this.#end(`its worker exited with code ${code}`);
    });
    this.#cancel = after(Math.max(0, endUs - nowUs()) / 1000, () =>
      this.#end('it had not ended at the end of the last stage'),
    );
  }

  /** Ends a script that has not ended. @param error why that is wrong; empty if it is not */
  stop(error: string): void {
    this.#end(error);
  }

  #end(error: string): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#cancel();
    void this.#worker.terminate();
    this.#onEnd(error);
  }
}
