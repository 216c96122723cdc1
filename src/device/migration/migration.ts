/**
 * One device's part in a migration: its VFIO state, and the stream that it writes or reads. The device runs in RUNNING
 * and PRE_COPY alone; what keeps it from running in the other states is up to DeviceInstance and its host.
 */
import { StateError } from '../../proto/state-codec.ts';
import type { DeviceModel } from '../model.ts';
import { type MigrationArc, MigrationState, migrationRoute, migrationStateName } from './states.ts';
import { DeviceStreamReader } from './stream-reader.ts';
import { type DeviceStreamPart, DeviceStreamWriter } from './stream-writer.ts';

/** Thrown for a state that a device cannot enter: the way is not allowed, or its model cannot be migrated. */
export class MigrationStateError extends Error {
  override name = 'MigrationStateError';
}

/** The device that migrates. */
interface MigratingDevice {
  readonly model: DeviceModel;
  /** For messages. */
  readonly modelName: string;
  /** Makes its model anew. */
  rebuild(): void;
  /** Tells its model that it stands still. */
  suspend(): void;
}

export class DeviceMigration {
  readonly #device: MigratingDevice;
  #state: MigrationState = MigrationState.RUNNING;
  #why = '';
  #writer: DeviceStreamWriter | undefined;
  #reader: DeviceStreamReader | undefined;

  constructor(device: MigratingDevice) {
    this.#device = device;
  }

  get state(): MigrationState {
    return this.#state;
  }

  /** True if the model is stepped. */
  get running(): boolean {
    return this.#state === MigrationState.RUNNING || this.#state === MigrationState.PRE_COPY;
  }

  /** Begins with nothing but the stream to come, in a device just made. */
  startResuming(): void {
    this.#reader = new DeviceStreamReader(this.#device.model);
    this.#state = MigrationState.RESUMING;
  }

  /**
   * Enters a state, by as many arcs as it takes.
   * @throws MigrationStateError if that is not possible: the device is where it was
   * @throws StateError for a stream that is not complete: the device is in ERROR
   */
  enter(target: number): void {
    const route = migrationRoute(this.#state, target);
    if (!route) throw new MigrationStateError(this.#refusal(target));
    if (route.some(({ arc }) => arc === 'log' || arc === 'save') && !this.#device.model.state)
      throw new MigrationStateError(
        `cannot be migrated: the model '${this.#device.modelName}' has no \`state\``,
      );
    for (const { to, arc } of route) {
      this.#guard(this.#work[arc]);
      this.#state = to;
    }
  }

  /** A device's reset, the way out of ERROR (VFIO_DEVICE_RESET): a model that is made anew, and runs. */
  reset(): void {
    this.#endSaving();
    this.#reader = undefined;
    this.#why = '';
    this.#device.rebuild();
    this.#state = MigrationState.RUNNING;
  }

  /**
   * The next bytes of the stream, at most `maxBytes`.
   * @throws MigrationStateError outside PRE_COPY and STOP_COPY
   * @throws StateError if the model's state cannot be had; the device may go back to RUNNING
   */
  read(maxBytes: number): DeviceStreamPart {
    if (!this.#writer) throw new MigrationStateError(`has no data to read in ${this.#stateText}`);
    return this.#writer.read(maxBytes);
  }

  /**
   * Takes the next bytes of the stream.
   * @throws MigrationStateError outside RESUMING
   * @throws StateError for what is no stream of this device: it is in ERROR then
   */
  write(bytes: Uint8Array): void {
    const reader = this.#reader;
    if (!reader) throw new MigrationStateError(`takes no data in ${this.#stateText}`);
    this.#guard(() => reader.write(bytes));
  }

  readonly #work: Readonly<Record<MigrationArc, () => void>> = {
    stop: () => this.#device.suspend(),
    run: () => {},
    log: () => this.#beginSaving(),
    unlog: () => this.#endSaving(),
    rest: () => {
      this.#device.suspend();
      this.#writer!.stop();
    },
    save: () => {
      this.#beginSaving();
      this.#writer!.stop();
    },
    saved: () => this.#endSaving(),
    resume: () => {
      this.#device.rebuild();
      this.#reader = new DeviceStreamReader(this.#device.model);
    },
    resumed: () => {
      this.#reader!.finish();
      this.#reader = undefined;
    },
  };

  #beginSaving(): void {
    this.#writer = new DeviceStreamWriter(this.#device.model);
  }

  #endSaving(): void {
    this.#writer?.close();
    this.#writer = undefined;
  }

  /** What fails on the way leaves ERROR, and nothing that notes or waits. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#endSaving();
      this.#reader = undefined;
      this.#why = error instanceof StateError ? error.message : String(error);
      this.#state = MigrationState.ERROR;
      throw error;
    }
  }

  get #stateText(): string {
    const name = migrationStateName(this.#state);
    return this.#why === '' ? name : `${name} (${this.#why})`;
  }

  #refusal(target: number): string {
    const to = migrationStateName(target);
    const way = this.#state === MigrationState.ERROR ? 'accepted: a reset' : 'there is no such way';
    return `cannot go from ${this.#stateText} to ${to}; ${way}`;
  }
}
