/**
 * Pause of a VM: its virtual CPUs stop. Its devices continue with what they have been given, or stop as for a migration.
 *
 * The guest stops first and continues last, so that it never finds a device that does not work.
 */
import { MigrationState } from '../../device/migration/states.ts';
import type { VmDevice } from './device.ts';
import type { GuestWorker } from './guest-worker.ts';

/** Settings of a pause. */
interface PauseSettings {
  /** True if the devices stop as well. */
  readonly stopsDevices: boolean;
}

interface PausableVm {
  readonly devices: readonly VmDevice[];
  /** Quarantines a device. Never rejects. */
  quarantine(device: VmDevice, kind: string, detail: string): Promise<void>;
}

export class VmPause {
  readonly #vm: PausableVm;
  readonly #worker: () => GuestWorker | undefined;
  #isPaused = false;
  /** Devices that the pause has stopped. */
  #stopped: readonly VmDevice[] = [];

  /** @param worker returns the worker of the current guest */
  constructor(vm: PausableVm, worker: () => GuestWorker | undefined) {
    this.#vm = vm;
    this.#worker = worker;
  }

  /** Stops the VM. Resolves to why it does not, or to an empty text. */
  async begin({ stopsDevices }: PauseSettings): Promise<string> {
    const error = (await this.#worker()?.setPaused(true)) ?? 'the VM is starting; accepted: a running VM';
    if (error !== '') return error;
    this.#isPaused = true;
    if (!stopsDevices) return '';
    this.#stopped = this.#vm.devices.filter(({ alive }) => alive);
    await this.#setDevices(MigrationState.STOP, 'did-not-stop');
    return '';
  }

  /** Lets the VM continue, if it is paused. Resolves to why it does not, or to an empty text. */
  async end(): Promise<string> {
    if (!this.#isPaused) return '';
    this.#isPaused = false;
    await this.#setDevices(MigrationState.RUNNING, 'did-not-resume');
    this.#stopped = [];
    return (await this.#worker()?.setPaused(false)) ?? '';
  }

  async #setDevices(state: MigrationState, kind: string): Promise<void> {
    await Promise.all(
      this.#stopped
        .filter(({ alive }) => alive)
        .map((device) =>
          device.control
            .setState(state)
            .catch((error: Error) => this.#vm.quarantine(device, kind, error.message)),
        ),
    );
  }
}
