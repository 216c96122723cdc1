/**
 * One device's part in a migration: its VFIO state, and the stream that it writes or reads. The device runs only in
 * RUNNING and PRE_COPY. DeviceInstance and its owner keep it from running in the other states.
 */
import { StateError } from '../../proto/state-codec.ts';
import type { DeviceModel, ModelStream } from '../model.ts';
import { ModelStreamWriter } from './model-stream.ts';
import { type MigrationArc, MigrationState, migrationRoute, migrationStateName } from './states.ts';
import { DeviceStreamReader } from './stream-reader.ts';
import { type DeviceStreamPart, DeviceStreamWriter } from './stream-writer.ts';

/** Thrown for a state that a device cannot enter: there is no such transition, or its model cannot be migrated. */
export class MigrationStateError extends Error {
  override name = 'MigrationStateError';
}

/** The device that migrates. */
interface MigratingDevice {
  readonly model: DeviceModel;
  /** For messages. */
  readonly modelName: string;
  /** Creates its model again. */
  rebuild(): void;
  /** Tells its model that the device stops. */
  suspend(): void;
}

export class DeviceMigration {
  readonly #device: MigratingDevice;
  #state: MigrationState = MigrationState.RUNNING;
  #reason = '';
  #writer: DeviceStreamWriter | ModelStreamWriter | undefined;
  #reader: DeviceStreamReader | ModelStream | undefined;

  constructor(device: MigratingDevice) {
    this.#device = device;
  }

  get state(): MigrationState {
    return this.#state;
  }

  /** True while the model is stepped. */
  get running(): boolean {
    return this.#state === MigrationState.RUNNING || this.#state === MigrationState.PRE_COPY;
  }

  /** Starts in RESUMING, in a new device. */
  startResuming(): void {
    this.#reader = readerOf(this.#device.model);
    this.#state = MigrationState.RESUMING;
  }

  /**
   * Enters a state by the shortest sequence of arcs.
   * @throws MigrationStateError if there is no such transition; the state is unchanged
   * @throws StateError for an incomplete stream; the device is in ERROR
   */
  enter(target: number): void {
    const route = migrationRoute(this.#state, target);
    if (!route) throw new MigrationStateError(this.#refusal(target));
    const { state, stream } = this.#device.model;
    if (route.some(({ arc }) => arc === 'log' || arc === 'save') && !state && !stream)
      throw new MigrationStateError(
        `cannot be migrated: the model '${this.#device.modelName}' has no \`state\``,
      );
    for (const { to, arc } of route) {
      this.#guard(this.#work[arc]);
      this.#state = to;
    }
  }

  /** Resets the device (VFIO_DEVICE_RESET): creates its model again and runs it. This is the way out of ERROR. */
  reset(): void {
    this.#endSaving();
    this.#reader = undefined;
    this.#reason = '';
    this.#device.rebuild();
    this.#state = MigrationState.RUNNING;
  }

  /**
   * Returns the next bytes of the stream, at most `maxBytes`.
   * @throws MigrationStateError outside PRE_COPY and STOP_COPY
   * @throws StateError if the model's state cannot be saved; the device may return to RUNNING
   */
  read(maxBytes: number): DeviceStreamPart {
    if (!this.#writer) throw new MigrationStateError(`has no data to read in ${this.#stateText}`);
    return this.#writer.read(maxBytes);
  }

  /**
   * Takes the next bytes of the stream.
   * @throws MigrationStateError outside RESUMING
   * @throws StateError for an invalid stream; the device is then in ERROR
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
      this.#reader = readerOf(this.#device.model);
    },
    resumed: () => {
      this.#reader!.finish();
      this.#reader = undefined;
    },
  };

  #beginSaving(): void {
    const { model } = this.#device;
    this.#writer = model.stream ? new ModelStreamWriter(model.stream) : new DeviceStreamWriter(model);
  }

  #endSaving(): void {
    this.#writer?.close();
    this.#writer = undefined;
  }

  /** Runs `work`. An error ends the log and the stream, and leaves the device in ERROR. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#endSaving();
      this.#reader = undefined;
      this.#reason = error instanceof StateError ? error.message : String(error);
      this.#state = MigrationState.ERROR;
      throw error;
    }
  }

  get #stateText(): string {
    const name = migrationStateName(this.#state);
    return this.#reason === '' ? name : `${name} (${this.#reason})`;
  }

  #refusal(target: number): string {
    const to = migrationStateName(target);
    const accepted =
      this.#state === MigrationState.ERROR ? 'accepted: a reset' : 'there is no such transition';
    return `cannot go from ${this.#stateText} to ${to}; ${accepted}`;
  }
}

const readerOf = (model: DeviceModel): DeviceStreamReader | ModelStream =>
  model.stream ?? new DeviceStreamReader(model);
