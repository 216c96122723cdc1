/**
 * Removals of a VM's devices by its host while the VM uses them (VFIO's device request).
 */
import { stopDevices } from './close-devices.ts';
import type { VmDevice } from './device.ts';
import type { VmVerdict } from './verdict.ts';

/** The parts of a VM that its removals use. */
interface RemovalOwner {
  readonly verdict: VmVerdict;
  /** Settles when all devices have started or failed. */
  readonly started: Promise<unknown>;
  /** Called at once: the device can no longer be used. */
  leaving(device: VmDevice, reason: string): void;
  /** Called when the device no longer accesses memory. */
  failed(device: VmDevice, reason: string): void;
}

export class DeviceRemovals {
  readonly #owner: RemovalOwner;
  readonly #running = new Set<Promise<void>>();

  constructor(owner: RemovalOwner) {
    this.#owner = owner;
  }

  /** Stops and closes a device. The guest's use of the device does not delay this. */
  async remove(device: VmDevice, uuid: string): Promise<void> {
    const removed = this.#remove(device, uuid);
    this.#running.add(removed);
    try {
      await removed;
    } finally {
      this.#running.delete(removed);
    }
  }

  /** Resolves when all removals so far have ended. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#running);
  }

  async #remove(device: VmDevice, uuid: string): Promise<void> {
    const isAnnounced = this.#owner.verdict.removed(device.index);
    if (device.failure === '') {
      device.leaving = `mdev ${uuid} is being removed`;
      this.#owner.leaving(device, device.leaving);
    }
    await this.#owner.started;
    if (device.failure !== '') return;
    await stopDevices([device]);
    // A device that has reported no longer accesses memory; any other must be terminated.
    if (!device.report) await device.run?.terminate();
    if (device.failure !== '') return;
    if (isAnnounced) device.loss = 'announced';
    const how = isAnnounced ? 'removal, as announced' : 'surprise removal';
    this.#owner.failed(device, `${how}: mdev ${uuid} was removed while the VM used it`);
  }
}
