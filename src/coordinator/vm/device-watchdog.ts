/**
 * Watchdog for device models: quarantines a device whose model does not return from a call, or fills memory in one.
 * Runs in the coordinator, because the thread that is stuck in the call cannot check itself.
 */
import { every, nowUs } from '#host';
import { BUFFER_BYTES_LIMIT } from '../../device/runtime.ts';
import type { VmDevice } from './device.ts';

/** Interval between two checks of each device. */
const CHECK_INTERVAL_MS = 250;
/** Duration of a call from which the model's memory is checked, too. */
const MEMORY_AFTER_MS = 500;

/** A device and its time limit. */
interface WatchedDevice {
  readonly device: VmDevice;
  /** Time limit of one call of its model. */
  readonly timeoutMs: number;
}

interface Watch extends WatchedDevice {
  /** The link's `turn` at the last check; odd during a call. */
  turn: number;
  /** Time of the check that first saw this turn, µs. */
  since: number;
}

export class DeviceWatchdog {
  readonly #watches = new Set<Watch>();
  #stop = () => {};

  add(devices: readonly WatchedDevice[]): void {
    for (const watched of devices) this.#watches.add({ ...watched, turn: 0, since: 0 });
  }

  remove(devices: readonly VmDevice[]): void {
    for (const watch of this.#watches) if (devices.includes(watch.device)) this.#watches.delete(watch);
  }

  start(): void {
    this.#stop = every(CHECK_INTERVAL_MS, () => {
      for (const watch of this.#watches)
        this.#check(watch).catch((error: unknown) => watch.device.lose(error));
    });
  }

  stop(): void {
    this.#stop();
  }

  async #check(watch: Watch): Promise<void> {
    const { device, timeoutMs } = watch;
    if (!device.alive) return;
    const { turn } = device.link;
    const isBusy = (turn & 1) !== 0;
    if (!isBusy || turn !== watch.turn) {
      watch.turn = turn;
      watch.since = nowUs();
      return;
    }
    const busyMs = (nowUs() - watch.since) / 1000;
    if (busyMs > timeoutMs)
      await device.quarantine('stuck-model', `did not return from its model within ${timeoutMs} ms`);
    else if (busyMs > MEMORY_AFTER_MS) await this.#checkMemory(watch);
  }

  async #checkMemory({ device, turn }: Watch): Promise<void> {
    const held = await device.run?.bufferBytes();
    const bytes = (held ?? 0) - device.link.memoryBytes;
    if (bytes <= BUFFER_BYTES_LIMIT || device.link.turn !== turn) return;
    const mib = (value: number) => `${Math.ceil(value / 2 ** 20)} MiB`;
    await device.quarantine(
      'model-memory',
      `holds ${mib(bytes)} of buffers; accepted: up to ${mib(BUFFER_BYTES_LIMIT)}`,
    );
  }
}
