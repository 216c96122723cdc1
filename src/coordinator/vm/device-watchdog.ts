/**
 * Watches that device models come back from what they are called for: a loop without end, or one that fills memory, is
 * seen from outside, because the thread that runs it sees nothing any more.
 */
import { every, nowUs } from '#host';
import { BUFFER_BYTES_LIMIT } from '../../device/runtime.ts';
import type { VmDevice } from './device.ts';

/** How often every device is looked at. */
const LOOK_INTERVAL_MS = 250;
/** From then on a busy model's memory is looked at, too. */
const MEMORY_AFTER_MS = 500;

/** A device and whom to tell. */
export interface WatchedDevice {
  readonly device: VmDevice;
  /** How long its model may be busy with one call. */
  readonly timeoutMs: number;
}

interface Look extends WatchedDevice {
  turn: number;
  since: number;
}

export class DeviceWatchdog {
  readonly #looks = new Set<Look>();
  #stop = () => {};

  add(devices: readonly WatchedDevice[]): void {
    for (const watched of devices) this.#looks.add({ ...watched, turn: 0, since: 0 });
  }

  remove(devices: readonly VmDevice[]): void {
    for (const look of this.#looks) if (devices.includes(look.device)) this.#looks.delete(look);
  }

  start(): void {
    this.#stop = every(LOOK_INTERVAL_MS, () => {
      for (const look of this.#looks) this.#look(look);
    });
  }

  stop(): void {
    this.#stop();
  }

  #look(look: Look): void {
    const { device, timeoutMs } = look;
    if (!device.alive) return;
    const { turn } = device.link;
    const isBusy = (turn & 1) !== 0;
    if (!isBusy || turn !== look.turn) {
      look.turn = turn;
      look.since = nowUs();
      return;
    }
    const busyMs = (nowUs() - look.since) / 1000;
    if (busyMs > timeoutMs)
      void device.quarantine('stuck-model', `did not come back from its model within ${timeoutMs} ms`);
    else if (busyMs > MEMORY_AFTER_MS) void this.#lookAtMemory(look);
  }

  async #lookAtMemory({ device, turn }: Look): Promise<void> {
    const held = await device.run?.bufferBytes();
    const bytes = (held ?? 0) - device.link.memoryBytes;
    if (bytes <= BUFFER_BYTES_LIMIT || device.link.turn !== turn) return;
    const mib = (value: number) => `${Math.ceil(value / 2 ** 20)} MiB`;
    await device.quarantine(
      'model-memory',
      `holds ${mib(bytes)} of buffers, accepted: up to ${mib(BUFFER_BYTES_LIMIT)}`,
    );
  }
}
