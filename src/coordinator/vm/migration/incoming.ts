/**
 * The target host's side of a migration: builds the VM from the source's configuration, fills it, compares its memory,
 * and runs it once the source has handed it over.
 */

import type { FrameSocket } from '../../../channel/frame-socket.ts';
import { MigrationError } from '../../../guest/migration-settings.ts';
import type { GuestSnapshot } from '../../../guest/protocol.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { Frame, FrameKind } from '../../../proto/codec.ts';
import type { FrameBodies } from '../../../proto/schema.ts';
import type { VmDevice } from '../device.ts';
import { refuse } from './host-socket.ts';
import { MIGRATION_VERSION } from './outgoing.ts';

/** A VM that is filled from a migration stream. */
export interface ArrivingVm {
  readonly ram: GuestRam;
  readonly devices: readonly VmDevice[];
  /**
   * Restores the vIOMMU's state and attaches the devices. RAM and the devices' streams must be complete.
   * @param expectations what the script has announced on the last host and what has not occurred yet, as JSON
   */
  load(iommuState: Uint8Array, expectations: string): Promise<void>;
  /** Resumes devices and guest; resolves when they run. */
  resume(snapshot: GuestSnapshot): Promise<void>;
}

/** The host that takes the VM in. */
interface ArrivalHost {
  /** Builds the VM and starts its devices for a resume. @throws for a configuration that this host cannot run */
  prepare(config: string): Promise<ArrivingVm>;
  /** Removes everything that was built for a VM whose migration has failed. */
  discard(vm: ArrivingVm): Promise<void>;
}

/** Maximum bytes of the vIOMMU's state, and of the guest's. Several times the largest possible state. */
export const STATE_BYTES_LIMIT: number = 128 * 2 ** 20;

/** Zeros to write or to compare with, in pieces of this size. */
const ZEROS = new Uint8Array(2 ** 20);

/** A state that arrives in several frames. */
class StatePieces {
  readonly #what: string;
  readonly #pieces: Uint8Array[] = [];
  #bytes = 0;

  constructor(what: string) {
    this.#what = what;
  }

  /** @throws MigrationError beyond STATE_BYTES_LIMIT */
  add(piece: Uint8Array): void {
    this.#bytes += piece.length;
    if (this.#bytes > STATE_BYTES_LIMIT)
      throw new MigrationError(
        `state of the ${this.#what} of ${this.#bytes} bytes; accepted: ${STATE_BYTES_LIMIT}`,
      );
    this.#pieces.push(piece);
  }

  /** Returns the whole state. @throws MigrationError if nothing has arrived */
  whole(): Buffer {
    if (this.#bytes === 0) throw new MigrationError(`the state of the ${this.#what} is missing`);
    return Buffer.concat(this.#pieces);
  }
}

type Handlers = {
  readonly [K in FrameKind]?: (body: FrameBodies[K], device: number) => Promise<void> | void;
};

export class Incoming {
  readonly #socket: FrameSocket;
  readonly #host: ArrivalHost;
  #vm: ArrivingVm | undefined;
  readonly #iommuState = new StatePieces('vIOMMU');
  readonly #guestState = new StatePieces('guest');
  #snapshot: GuestSnapshot | undefined;
  #loaded = false;
  #resumed = false;
  readonly #compared = { comparedBytes: 0, differentBytes: 0, firstDifference: 0 };

  constructor(socket: FrameSocket, host: ArrivalHost) {
    this.#socket = socket;
    this.#host = host;
  }

  /** Serves the source until the VM runs here or the migration has failed. @throws any error of `discard` */
  async serve(): Promise<void> {
    try {
      while (!this.#resumed) await this.#handle(await this.#socket.next());
      this.#socket.close();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      await Promise.all([
        refuse(this.#socket, reason),
        this.#vm && !this.#resumed ? this.#host.discard(this.#vm) : undefined,
      ]);
    }
  }

  readonly #handlers: Handlers = {
    migrationStart: async ({ version, config }) => {
      if (version !== MIGRATION_VERSION)
        throw new MigrationError(`migration stream of version ${version}; accepted: ${MIGRATION_VERSION}`);
      if (this.#vm) throw new MigrationError('migrationStart was sent twice');
      this.#vm = await this.#host.prepare(config);
      await this.#socket.send('migrationReady', {});
    },
    ramPages: ({ gpa, data, compare }) =>
      compare ? this.#compare(gpa, data) : this.#arriving.ram.write(gpa, data),
    zeroPages: ({ gpa, bytes, compare }) => this.#zero(gpa, bytes, compare),
    deviceStream: ({ data, end, interrupts }, device) => this.#device(device, data, end, interrupts),
    iommuState: ({ state }) => this.#iommuState.add(state),
    guestState: ({ state }) => this.#guestState.add(state),
    migrationLoad: async ({ expectations }) => {
      this.#snapshot = JSON.parse(this.#guestState.whole().toString()) as GuestSnapshot;
      await this.#arriving.load(this.#iommuState.whole(), expectations);
      this.#loaded = true;
      await this.#socket.send('migrationLoaded', {});
    },
    migrationCompare: () => this.#socket.send('migrationCompared', this.#compared),
    migrationResume: async () => {
      if (!this.#loaded || !this.#snapshot)
        throw new MigrationError('migrationResume was sent before migrationLoad');
      await this.#arriving.resume(this.#snapshot);
      this.#resumed = true;
      await this.#socket.send('migrationRunning', {});
    },
    migrationFailed: ({ reason }) => {
      throw new MigrationError(reason);
    },
  };

  async #handle({ kind, body, header }: Frame): Promise<void> {
    const handler = this.#handlers[kind] as
      | ((body: unknown, device: number) => Promise<void> | void)
      | undefined;
    if (!handler) throw new MigrationError(`a migration stream has no ${kind} frame`);
    await handler(body, header.device);
  }

  get #arriving(): ArrivingVm {
    if (!this.#vm) throw new MigrationError('a migration stream begins with migrationStart');
    return this.#vm;
  }

  async #device(index: number, data: Uint8Array, end: boolean, interrupts: readonly number[]): Promise<void> {
    const device = this.#arriving.devices[index];
    if (!device)
      throw new MigrationError(
        `stream of device ${index}; accepted: 0 to ${this.#arriving.devices.length - 1}`,
      );
    if (data.length > 0) await device.control.write(data);
    if (end) device.link.interruptCounts = interrupts;
  }

  #zero(gpa: number, bytes: number, compare: boolean): void {
    for (let at = 0; at < bytes; at += ZEROS.length) {
      const zeros = ZEROS.subarray(0, Math.min(ZEROS.length, bytes - at));
      if (compare) this.#compare(gpa + at, zeros);
      else this.#arriving.ram.write(gpa + at, zeros);
    }
  }

  #compare(gpa: number, expected: Uint8Array): void {
    const { ram } = this.#arriving;
    const result = this.#compared;
    result.comparedBytes += expected.length;
    if (ram.equals(gpa, expected)) return;
    const found = ram.read(gpa, expected.length);
    for (let i = 0; i < expected.length; i++) {
      if (found[i] === expected[i]) continue;
      if (result.differentBytes === 0) result.firstDifference = gpa + i;
      result.differentBytes++;
    }
  }
}
