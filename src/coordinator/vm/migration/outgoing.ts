/**
 * A VM on its way out: what the source host does, from the connection to the moment the VM runs elsewhere.
 *
 * The guest's script drives it, as a VMM's own thread would: it begins, works on while memory is copied in rounds, stops
 * when it is told that little is left, and hands over. Until the other host has taken everything up, the VM is only
 * paused here, and whatever fails, it goes on here. From `migrationResume` on it is the other's: never may two hosts run
 * the same VM, so what fails then is lost with the other host.
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
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { FrameBodies } from '../../../proto/schema.ts';
import type { VIommu } from '../../../viommu/viommu.ts';
import type { VmDevice } from '../device.ts';
import { RamCopy } from './ram-copy.ts';

/** Of the stream between two hosts. */
export const MIGRATION_VERSION = 1;

/** Bytes of a state in one frame: far less than a frame may have. */
const STATE_PIECE_BYTES = 2 ** 20;

function* pieces(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += STATE_PIECE_BYTES)
    yield bytes.subarray(at, at + STATE_PIECE_BYTES);
}

/** The VM, as far as its migration needs it. */
export interface OutgoingVm {
  readonly ram: GuestRam;
  readonly devices: readonly VmDevice[];
  readonly iommu: VIommu;
  /** What the other host builds it from, as JSON. */
  configFor(host: number): string;
  /** Resolves when the vIOMMU has done all that its guest asked for. */
  settle(): Promise<void>;
}

/** Where it goes. */
export interface Transfer {
  readonly from: number;
  readonly to: number;
  readonly socket: FrameSocket;
}

export class Outgoing {
  readonly #vm: OutgoingVm;
  readonly #settings: MigrationSettings;
  readonly #transfer: Transfer;
  readonly #ram: RamCopy;
  readonly #rounds: MigrationRound[] = [];
  readonly #since = nowUs();
  #forced = false;
  #handedOver = false;

  constructor(vm: OutgoingVm, settings: MigrationSettings, passage: Transfer) {
    this.#vm = vm;
    this.#settings = settings;
    this.#transfer = passage;
    const trackers = vm.devices.map(({ container }) => container.dirty);
    this.#ram = new RamCopy(vm.ram, trackers, passage.socket);
  }

  /** True from the moment the other host may run the VM: it must never run here again. */
  get handedOver(): boolean {
    return this.#handedOver;
  }

  /**
   * Copies memory while the VM runs, until little enough is left, or for so many rounds. Resolves when the VM should
   * pause.
   * @throws MigrationError and others; {@link abort} must follow
   */
  async copy(): Promise<void> {
    const { socket, to } = this.#transfer;
    await socket.send('migrationStart', { version: MIGRATION_VERSION, config: this.#vm.configFor(to) });
    await this.#ram.start();
    await this.#setDevices(MigrationState.PRE_COPY);
    await this.#expect('migrationReady');
    for (let round = 0; ; round++) {
      if (round > 0 && this.#isLittleLeft()) return;
      this.#forced = round >= this.#settings.rounds;
      if (this.#forced) return;
      await this.#round(() => this.#copyDevices());
      await this.#ram.harvest();
    }
  }

  /**
   * The VM has paused: sends what is left, and has the other host take it up and go on.
   * @param pausedUs how long it has been paused already
   * @throws MigrationError and others: {@link abort} must follow, unless the VM is {@link handedOver}, and lost
   */
  async handOver(guestState: string, pausedUs: number): Promise<MigrationStats> {
    const since = nowUs() - pausedUs;
    const { socket, from, to } = this.#transfer;
    await this.#vm.settle();
    await this.#setDevices(MigrationState.STOP_COPY);
    await this.#ram.harvest();
    await this.#round(() => this.#finishDevices());
    for (const state of pieces(this.#iommuState())) await socket.send('iommuState', { state });
    for (const state of pieces(Buffer.from(guestState))) await socket.send('guestState', { state });
    await socket.send('migrationLoad', {});
    await this.#expect('migrationLoaded');
    const comparing = nowUs();
    const { comparedBytes, differentBytes } = await this.#compare();
    const comparedUs = nowUs() - comparing;
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
      totalUs: now - this.#since - comparedUs,
      downtimeUs: now - since - comparedUs,
      comparedBytes,
      differentBytes,
    };
  }

  /** The VM stays: its devices run again, nothing is tracked any more, the other host hears of it. */
  async abort(reason: string): Promise<void> {
    const { socket } = this.#transfer;
    this.#ram.stop();
    await socket.send('migrationFailed', { reason }).catch(() => {}); // it may have gone
    socket.close();
    await Promise.allSettled(
      this.#vm.devices
        .filter((device) => device.alive)
        .map((device) => device.control.setState(MigrationState.RUNNING)),
    );
  }

  #isLittleLeft(): boolean {
    const last = this.#rounds.at(-1) as MigrationRound;
    // What pages full of zeros cost says nothing of others.
    const perUs = last.sentBytes / Math.max(1, last.tookUs);
    const leftUs = this.#ram.pendingBytes / Math.max(perUs, Number.EPSILON);
    return leftUs <= this.#settings.downtimeMs * 1000;
  }

  /** Sends RAM and the devices' data, and counts them. */
  async #round(devices: () => Promise<number>): Promise<void> {
    const { socket } = this.#transfer;
    const [since, ramBefore, sentBefore] = [nowUs(), this.#ram.bytesSent, socket.bytesSent];
    const [deviceBytes] = await Promise.all([devices(), this.#ram.send()]);
    this.#rounds.push({
      ramBytes: this.#ram.bytesSent - ramBefore,
      deviceBytes,
      sentBytes: socket.bytesSent - sentBefore,
      tookUs: nowUs() - since,
    });
  }

  async #setDevices(state: MigrationState): Promise<void> {
    await Promise.all(this.#vm.devices.map((device) => device.control.setState(state)));
  }

  /** What the devices have to send now. Returns its bytes. */
  async #copyDevices(): Promise<number> {
    const sent = await Promise.all(this.#vm.devices.map((device) => this.#copyDevice(device, false)));
    return sent.reduce((sum, bytes) => sum + bytes, 0);
  }

  async #finishDevices(): Promise<number> {
    const sent = await Promise.all(this.#vm.devices.map((device) => this.#copyDevice(device, true)));
    return sent.reduce((sum, bytes) => sum + bytes, 0);
  }

  async #copyDevice(device: VmDevice, last: boolean): Promise<number> {
    let bytes = 0;
    for (;;) {
      const { data, end } = await device.control.read(DEVICE_DATA_BYTES_MAX);
      bytes += data.length;
      const isEnd = end && last;
      // The device stands still: no interrupt is counted after this.
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
        `${differentBytes} bytes of RAM differ at the other host, the first at 0x${firstDifference.toString(16)}`,
      );
    return { comparedBytes, differentBytes };
  }

  async #expect<K extends keyof FrameBodies>(kind: K): Promise<FrameBodies[K]> {
    const frame = await this.#transfer.socket.next();
    if (frame.kind === 'migrationFailed') throw new MigrationError(frame.body.reason);
    if (frame.kind !== kind) throw new MigrationError(`the other host says ${frame.kind}, not ${kind}`);
    return frame.body as FrameBodies[K];
  }
}
