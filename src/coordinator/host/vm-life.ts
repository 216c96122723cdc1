/**
 * The life of a VM at its host: it boots, crashes or is shut down, and boots again, until the run has no more for it.
 *
 * After a crash or a shutdown everything of the VM is closed, and its result so far is kept. The next boot builds a new
 * VM from the same configuration.
 */
import type { FrameBodies } from '../../proto/schema.ts';
import { addResults } from '../../report/vm-result.ts';
import type { VmConfig } from '../vm/config.ts';
import type { Vm } from '../vm/vm.ts';

type VmResult = FrameBodies['vmResult'];
type Act = FrameBodies['vmAct'];

/** State of a VM. `crashed` and `off`: it is closed and may boot again. */
type LifeState = 'booting' | 'running' | 'paused' | 'crashed' | 'off' | 'ended';

/** Action that no event has: no more boots of the VM will come. */
export const END_ACTION = 'end';

/** States in which each action is accepted. */
const ACCEPTED: Readonly<Record<string, readonly LifeState[]>> = {
  boot: ['crashed', 'off'],
  crash: ['booting', 'running', 'paused'],
  migrate: ['running'],
  pause: ['running'],
  reboot: ['booting', 'running'],
  resume: ['paused'],
  shutdown: ['booting', 'running'],
};

/** The host's services for a life. */
interface LifeHost {
  /** Builds the VM of a later boot. @throws RangeError */
  build(config: VmConfig): Vm;
  /** Starts devices and guest; resolves to the result when all of the VM is closed. Never rejects. */
  run(vm: Vm): Promise<VmResult>;
  /** Called when all of a VM is closed. */
  closed(vm: Vm): void;
  /** Removes a closed VM, of which the next boot builds another. */
  remove(vm: Vm): void;
}

/** A crash or shutdown in progress. */
interface Closing {
  readonly state: 'crashed' | 'off';
  /** True if the VM does not boot again. */
  readonly isLast: boolean;
  readonly done: (error: string) => void;
}

export class VmLife {
  readonly #host: LifeHost;
  #vm: Vm;
  #state: LifeState = 'booting';
  #closing: Closing | undefined;
  /** Ends the wait of a closed VM: true for a boot, false if none will come. */
  #onBoot: (boots: boolean) => void = () => {};
  #hasNoMore = false;

  constructor(vm: Vm, host: LifeHost) {
    this.#vm = vm;
    this.#host = host;
  }

  /** The present VM, or the last one. */
  get vm(): Vm {
    return this.#vm;
  }

  /** The guest has booted: it is ready for its load. */
  booted(): void {
    if (this.#state === 'booting') this.#state = 'running';
  }

  /** Follows the VM to its last end. Resolves to the sum of its results. @param first result of its first life */
  async run(first: Promise<VmResult>): Promise<VmResult> {
    let result = await this.#close(first);
    // A VM that has moved to another host, or is lost, is not closed here.
    while (this.#closing && !result.moved && result.lost === '' && (await this.#boots(this.#closing))) {
      this.#host.remove(this.#vm);
      this.#vm = this.#host.build(this.#nextConfig());
      result = addResults(result, await this.#close(this.#host.run(this.#vm)));
    }
    this.#state = 'ended';
    this.#closing?.done(result.moved ? 'the VM has moved' : 'the VM has ended');
    return result;
  }

  /** No more boots will come: a VM that is closed ends, and one that will be closed does not wait. */
  end(): void {
    this.#hasNoMore = true;
    this.#onBoot(false);
  }

  /** Acts on the VM; resolves to why that was not done, or to an empty text. */
  async act({ action, to, clearRam, isLast, stopsDevices }: Act): Promise<string> {
    if (action === END_ACTION) {
      this.end();
      return '';
    }
    const accepted = ACCEPTED[action] ?? [];
    if (!accepted.includes(this.#state))
      return `the VM ${this.#stateText}; accepted: a VM that ${accepted.map((state) => STATE_TEXTS[state]).join(' or ')}`;
    if (this.#closing) return 'the VM is being closed already';
    switch (action) {
      case 'boot':
        this.#state = 'booting';
        this.#onBoot(true);
        return '';
      case 'migrate':
        return this.#vm.move(to === 0 ? undefined : to - 1);
      case 'reboot':
        return this.#reboot(clearRam);
      case 'pause':
        return this.#becomes('paused', await this.#vm.pauses.begin({ stopsDevices }));
      case 'resume':
        return this.#becomes('running', await this.#vm.pauses.end());
      default:
        return new Promise((done) => {
          this.#closing = { state: action === 'crash' ? 'crashed' : 'off', isLast, done };
          if (action === 'crash') this.#vm.crash();
          else this.#vm.shutDown();
        });
    }
  }

  async #reboot(clearRam: boolean): Promise<string> {
    this.#state = 'booting';
    const error = await this.#vm.reboot({ clearRam });
    if (error !== '') this.#state = 'running';
    return error;
  }

  /** Enters a state, unless the action has failed or the VM has ended meanwhile. */
  #becomes(state: LifeState, error: string): string {
    if (error === '' && this.#vm.isHere) this.#state = state;
    return error;
  }

  get #stateText(): string {
    return this.#vm.isHere || this.#state === 'crashed' || this.#state === 'off'
      ? STATE_TEXTS[this.#state]
      : STATE_TEXTS.ended;
  }

  async #close(running: Promise<VmResult>): Promise<VmResult> {
    const result = await running;
    this.#host.closed(this.#vm);
    return result;
  }

  /** The VM is closed: waits for its next boot. Resolves to false if no boot will come. */
  async #boots({ state, isLast, done }: Closing): Promise<boolean> {
    this.#closing = undefined;
    this.#state = state;
    const boot = new Promise<boolean>((resolve) => {
      this.#onBoot = resolve;
    });
    done('');
    return !isLast && !this.#hasNoMore && (await boot);
  }

  /** A device that its host has taken away does not come back. */
  #nextConfig(): VmConfig {
    const { config, devices, loadState } = this.#vm;
    const lostDevices = devices.map(({ leaving }, i) => config.lostDevices[i] || leaving);
    return { ...config, bootUs: 0, migrations: 0, lostDevices, loadState };
  }
}

const STATE_TEXTS: Readonly<Record<LifeState, string>> = {
  booting: 'is booting',
  running: 'is running',
  paused: 'is paused',
  crashed: 'has crashed',
  off: 'is off',
  ended: 'has ended',
};
