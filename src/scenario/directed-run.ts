/**
 * The run as a scenario's `director(run)` sees it: its VMs, its clock, and the actions of `events` as methods.
 */
import { nowUs, sleep } from '#host';
import type { ActionName } from '../load/events.ts';
import { parseDuration, TIME_ACCEPTED } from '../metrics/units.ts';
import { nearest } from '../platform/nearest.ts';

/** Longest wait of one call. */
const WAIT_MS_LIMIT = 86_400_000;
const NAMES_SHOWN = 8;

/** An action on a VM, as plain JSON. */
export interface DirectedAction {
  readonly action: ActionName;
  /** Name of the VM, such as `web/1`. */
  readonly name: string;
  readonly to?: number | undefined;
  readonly clearRam?: boolean;
  readonly stopsDevices?: boolean;
}

/** Thrown for an action that is not done; the run fails also if the script catches it. */
export class DirectorError extends Error {
  override name = 'DirectorError';
}

/** The host's side of a script. */
interface Host {
  /** Carries an action out; resolves to why it was not done, or to an empty text. */
  act(action: DirectedAction): Promise<string>;
  /** Resolves when the guest of a VM has booted; at once if it does not boot. */
  booted(name: string): Promise<void>;
}

/** A VM of the run, and what the host does to it. Each call resolves when the action has ended. @throws DirectorError */
export class DirectedVm {
  readonly name: string;
  readonly #host: Host;

  constructor(name: string, host: Host) {
    this.name = name;
    this.#host = host;
  }

  /** Waits until the guest has booted, after {@link boot} or {@link reboot}; returns at once if it does not boot. */
  booted(): Promise<void> {
    return this.#host.booted(this.name);
  }

  /** Boots the VM again, after a crash or a shutdown. */
  boot(): Promise<void> {
    return this.#do({ action: 'boot' });
  }

  /** Ends the guest between two instructions, and closes the VM while its devices work. */
  crash(): Promise<void> {
    return this.#do({ action: 'crash' });
  }

  /** Has the guest let go of its devices, and closes the VM. */
  shutdown(): Promise<void> {
    return this.#do({ action: 'shutdown' });
  }

  /** Resets the platform and boots the guest again. */
  reboot({ ram = 'keep' }: { readonly ram?: 'keep' | 'clear' } = {}): Promise<void> {
    if (ram !== 'keep' && ram !== 'clear')
      throw new DirectorError(`ram: ${String(ram)}; accepted: keep, clear`);
    return this.#do({ action: 'reboot', clearRam: ram === 'clear' });
  }

  /** Moves the VM live. @param to number of the host process; by default the next one */
  migrate(to?: number): Promise<void> {
    if (to !== undefined && !(Number.isInteger(to) && to >= 0))
      throw new DirectorError(
        `migrate ${this.name} to ${String(to)}; accepted: the number of a host process`,
      );
    return this.#do({ action: 'migrate', to });
  }

  /** Stops the virtual CPUs. The devices continue with what they have been given, or stop as well. */
  pause({ devices = 'run' }: { readonly devices?: 'run' | 'stop' } = {}): Promise<void> {
    if (devices !== 'run' && devices !== 'stop')
      throw new DirectorError(`devices: ${String(devices)}; accepted: run, stop`);
    return this.#do({ action: 'pause', stopsDevices: devices === 'stop' });
  }

  /** Lets the virtual CPUs continue. */
  resume(): Promise<void> {
    return this.#do({ action: 'resume' });
  }

  async #do(action: Omit<DirectedAction, 'name'>): Promise<void> {
    const error = await this.#host.act({ ...action, name: this.name });
    if (error !== '') throw new DirectorError(`${action.action} ${this.name}: ${error}`);
  }
}

/** Facts of a run for its script, as plain JSON. */
export interface DirectedRunParts {
  /** Names of the VMs. */
  readonly vms: readonly string[];
  readonly params: Readonly<Record<string, unknown>>;
  /** Start of the run's clock, on the scale of `nowUs()`. */
  readonly startUs: number;
}

export class DirectedRun {
  /** The VMs, by group and number. */
  readonly vms: readonly DirectedVm[];
  /** Parameters of the scenario, as the guests' `vm.params`. */
  readonly params: Readonly<Record<string, unknown>>;
  readonly #startUs: number;

  constructor({ vms, params, startUs }: DirectedRunParts, host: Host) {
    this.vms = vms.map((name) => new DirectedVm(name, host));
    this.params = params;
    this.#startUs = startUs;
  }

  /** Returns a VM by its group and its number there, such as `web/0`; without groups `all/0`. @throws DirectorError */
  vm(name: string): DirectedVm {
    const vm = this.vms.find((each) => each.name === name);
    if (vm) return vm;
    const names = this.vms.map((each) => each.name);
    const shown = names.slice(0, NAMES_SHOWN).join(', ');
    const more = names.length > NAMES_SHOWN ? `, … ${names.at(-1)}` : '';
    throw new DirectorError(`no VM '${name}'; nearest: ${nearest(name, names)}; accepted: ${shown}${more}`);
  }

  /** Seconds on the run's clock. */
  get seconds(): number {
    return (nowUs() - this.#startUs) / 1e6;
  }

  /** Waits this long. @throws DirectorError */
  async sleep(ms: number): Promise<void> {
    if (!(ms >= 0 && ms <= WAIT_MS_LIMIT))
      throw new DirectorError(`sleep(${String(ms)}); accepted: 0 to ${WAIT_MS_LIMIT} ms`);
    await sleep(ms);
  }

  /** Waits until a time on the run's clock, such as `2s`. Returns at once if it has passed. @throws DirectorError */
  async at(time: string): Promise<void> {
    const us = parseDuration(String(time));
    if (us === undefined) throw new DirectorError(`at('${String(time)}'); accepted: ${TIME_ACCEPTED}`);
    const left = us - (nowUs() - this.#startUs);
    if (left > 0) await this.sleep(left / 1000);
  }
}
