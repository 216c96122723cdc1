/**
 * The source host's side of a migration, from the connection until the VM runs on the target host.
 *
 * The guest's script drives it, as a VMM's own thread would:
 * 1. It starts the migration and continues its work while memory is copied in rounds.
 * 2. It pauses when little memory is left, and hands over.
 * 3. Until the target has loaded everything, the VM is only paused here. After any failure it continues here.
 * 4. From `migrationResume` on, the VM belongs to the target. Two hosts must never run the same VM, so after a failure
 *    from here on the VM is lost.
 */

import { nowUs } from '#host';
import { DEVICE_DATA_BYTES_MAX } from '../../../channel/device-link.ts';
import type { FrameSocket } from '../../../channel/frame-socket.ts';
import { MigrationState } from '../../../device/migration/states.ts';
import {
  MigrationError,
  type MigrationRound,
  type MigrationSettings,
  type MigrationStats,
} from '../../../guest/migration-settings.ts';
import { hex } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { FrameBodies } from '../../../proto/schema.ts';
import type { VIommu } from '../../../viommu/viommu.ts';
import type { VmDevice } from '../device.ts';
import { RamCopy } from './ram-copy.ts';

/** Version of the migration stream between two hosts. */
export const MIGRATION_VERSION = 2;

/** Bytes of a state in one frame; far below the limit of a frame. */
const STATE_PIECE_BYTES = 2 ** 20;

function* pieces(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += STATE_PIECE_BYTES)
    yield bytes.subarray(at, at + STATE_PIECE_BYTES);
}

/** The parts of a VM that are sent. */
export interface OutgoingVm {
  readonly ram: GuestRam;
  readonly devices: readonly VmDevice[];
  readonly iommu: VIommu;
  /** Returns the configuration from which the target host builds the VM, as JSON. */
  configFor(host: number): string;
  /** Resolves when the vIOMMU has completed all commands of its guest. */
  settle(): Promise<void>;
  /** Returns what the script has announced and what has not occurred yet, as JSON. */
  expectations(): string;
}

/** Source, target and connection of a migration. */
interface Transfer {
  readonly from: number;
  readonly to: number;
  readonly socket: FrameSocket;
}

export class Outgoing {
  readonly #vm: OutgoingVm;
  readonly #settings: MigrationSettings;
  readonly #transfer: Transfer;
  readonly #ram: RamCopy;
  /** The devices that are alive at the start. The others are lost on the other host, too. */
  readonly #devices: readonly VmDevice[];
  readonly #rounds: MigrationRound[] = [];
  readonly #startUs = nowUs();
  readonly #failure: Promise<never>;
  #fail: (error: Error) => void = () => {};
  /** Error of a migration that has failed or was aborted: work that is still in progress must not continue. */
  #error: Error | undefined;
  #forced = false;
  #handedOver = false;

  constructor(vm: OutgoingVm, settings: MigrationSettings, transfer: Transfer) {
    this.#vm = vm;
    this.#settings = settings;
    this.#transfer = transfer;
    this.#devices = vm.devices.filter(({ alive }) => alive);
    this.#failure = new Promise((_, reject) => {
      this.#fail = reject;
    });
    this.#failure.catch(() => {}); // it may fail while nothing waits
    const trackers = vm.devices.map(({ container }) => container.dirty);
    this.#ram = new RamCopy(vm.ram, trackers, transfer.socket);
  }

  /** True from the moment the target may run the VM, which must then never run here again. */
  get handedOver(): boolean {
    return this.#handedOver;
  }

  /**
   * Copies memory while the VM runs, until the rest fits into the permitted downtime or the round limit is reached.
   * Resolves when the VM should pause.
   * @throws MigrationError and others; {@link abort} must follow
   */
  copy(): Promise<void> {
    return this.#unlessFailed(this.#copy());
  }

  async #copy(): Promise<void> {
    const { socket, to } = this.#transfer;
    await socket.send('migrationStart', { version: MIGRATION_VERSION, config: this.#vm.configFor(to) });
    await this.#ram.start();
    await this.#setDevices(MigrationState.PRE_COPY);
    await this.#expect('migrationReady');
    for (let round = 0; ; round++) {
      if (round > 0 && this.#isLittleLeft()) return;
      this.#forced = round >= this.#settings.rounds;
      if (this.#forced) return;
      await this.#round(() => this.#copyDevices(false));
      await this.#ram.harvest();
    }
  }

  /**
   * Sends the rest of the paused VM, then has the target load and resume it.
   * @param pausedUs how long the VM has been paused already
   * @throws MigrationError and others: {@link abort} must follow, unless the VM is {@link handedOver} and thereby lost
   */
  handOver(guestState: string, pausedUs: number): Promise<MigrationStats> {
    return this.#unlessFailed(this.#handOver(guestState, pausedUs));
  }

  /** Makes {@link copy} or {@link handOver} reject at once, unless the VM is handed over already. */
  fail(error: Error): void {
    if (this.#handedOver) return;
    this.#error ??= error;
    this.#fail(this.#error);
  }

  async #handOver(guestState: string, pausedUs: number): Promise<MigrationStats> {
    const pauseUs = nowUs() - pausedUs;
    const { socket, from, to } = this.#transfer;
    await this.#vm.settle();
    await this.#setDevices(MigrationState.STOP_COPY);
    await this.#ram.harvest();
    await this.#round(() => this.#copyDevices(true));
    for (const state of pieces(this.#iommuState())) await socket.send('iommuState', { state });
    for (const state of pieces(Buffer.from(guestState))) await socket.send('guestState', { state });
    await socket.send('migrationLoad', { expectations: this.#vm.expectations() });
    await this.#expect('migrationLoaded');
    const compareUs = nowUs();
    const { comparedBytes, differentBytes } = await this.#compare();
    const comparedUs = nowUs() - compareUs;
    this.#throwIfFailed();
    this.#handedOver = true;
    await socket.send('migrationResume', {});
    await this.#expect('migrationRunning');
    const now = nowUs();
    this.#ram.stop();
    socket.close();
    return {
      from,
      to,
      rounds: this.#rounds,
      forced: this.#forced,
      totalUs: now - this.#startUs - comparedUs,
      downtimeUs: now - pauseUs - comparedUs,
      comparedBytes,
      differentBytes,
    };
  }

  /** Aborts before the hand-over: stops the dirty tracking, informs the target and continues the devices here. */
  async abort(reason: string): Promise<void> {
    this.fail(new MigrationError(reason));
    const { socket } = this.#transfer;
    this.#ram.stop();
    await socket.send('migrationFailed', { reason }).catch(() => {}); // the target may be gone
    socket.close();
    await Promise.allSettled(
      this.#devices
        .filter((device) => device.alive)
        .map((device) => device.control.setState(MigrationState.RUNNING)),
    );
  }

  async #unlessFailed<T>(work: Promise<T>): Promise<T> {
    // If the failure is first, `work` ends later, at its next step.
    work.catch(() => {});
    return Promise.race([work, this.#failure]);
  }

  #throwIfFailed(): void {
    if (this.#error) throw this.#error;
  }

  #isLittleLeft(): boolean {
    const last = this.#rounds.at(-1) as MigrationRound;
    // Rate of bytes sent, not of pages: zero pages cost little and say nothing about the others.
    const perUs = last.sentBytes / Math.max(1, last.tookUs);
    const leftUs = this.#ram.pendingBytes / Math.max(perUs, Number.EPSILON);
    return leftUs <= this.#settings.downtimeMs * 1000;
  }

  /** Sends RAM and the devices' data, and records the round. */
  async #round(sendDevices: () => Promise<number>): Promise<void> {
    const { socket } = this.#transfer;
    const [since, ramBefore, sentBefore] = [nowUs(), this.#ram.bytesSent, socket.bytesSent];
    const [deviceBytes] = await Promise.all([sendDevices(), this.#ram.send()]);
    this.#rounds.push({
      ramBytes: this.#ram.bytesSent - ramBefore,
      deviceBytes,
      sentBytes: socket.bytesSent - sentBefore,
      tookUs: nowUs() - since,
    });
  }

  async #setDevices(state: MigrationState): Promise<void> {
    this.#throwIfFailed();
    await Promise.all(this.#devices.map((device) => device.control.setState(state)));
  }

  /**
   * Sends the data that the devices have now. Returns the count of bytes.
   * @param last ends the devices' streams; the devices must be stopped
   */
  async #copyDevices(last: boolean): Promise<number> {
    const sent = await Promise.all(this.#devices.map((device) => this.#copyDevice(device, last)));
    return sent.reduce((sum, bytes) => sum + bytes, 0);
  }

  async #copyDevice(device: VmDevice, last: boolean): Promise<number> {
    let bytes = 0;
    for (;;) {
      this.#throwIfFailed();
      const { data, end } = await device.control.read(DEVICE_DATA_BYTES_MAX);
      bytes += data.length;
      const isEnd = end && last;
      // The device is stopped: the counts are final.
      const interrupts = isEnd ? device.link.interruptCounts : [];
      if (data.length > 0 || isEnd)
        await this.#transfer.socket.send('deviceStream', { data, end: isEnd, interrupts }, device.index);
      if (end) return bytes;
    }
  }

  #iommuState(): Uint8Array {
    const { iommu } = this.#vm;
    if (!iommu.save) throw new MigrationError(`the vIOMMU '${iommu.name}' cannot be migrated`);
    return iommu.save();
  }

  async #compare(): Promise<Pick<MigrationStats, 'comparedBytes' | 'differentBytes'>> {
    if (!this.#settings.compare) return { comparedBytes: 0, differentBytes: 0 };
    await this.#ram.sendForComparison();
    await this.#transfer.socket.send('migrationCompare', {});
    const { comparedBytes, differentBytes, firstDifference } = await this.#expect('migrationCompared');
    if (differentBytes > 0)
      throw new MigrationError(
        `${differentBytes} bytes of RAM differ on the other host, the first at ${hex(firstDifference)}`,
      );
    return { comparedBytes, differentBytes };
  }

  async #expect<K extends keyof FrameBodies>(kind: K): Promise<FrameBodies[K]> {
    const frame = await this.#transfer.socket.next();
    if (frame.kind === 'migrationFailed') throw new MigrationError(frame.body.reason);
    if (frame.kind !== kind) throw new MigrationError(`the other host sent ${frame.kind} instead of ${kind}`);
    return frame.body as FrameBodies[K];
  }
}
