/**
 * Slots of a VM's devices on the physical GPUs of its host.
 */
import type { GpuPool, Placement } from '../gpu-pool.ts';
import { modelAt, usesGpu } from '../model-names.ts';
import type { VmConfig } from './config.ts';
import type { VmDevice } from './device.ts';

export class DeviceSlots {
  readonly #gpus: GpuPool;
  /** By the device's index; undefined for a device that uses no GPU. */
  readonly all: readonly (Placement | undefined)[];

  /** Places the devices. @throws RangeError if no GPU has room */
  constructor(gpus: GpuPool, devices: readonly VmDevice[], { model, mdevTypes, gpuTypes }: VmConfig) {
    this.#gpus = gpus;
    this.all = devices.map(({ name, link }, index) =>
      usesGpu(modelAt(model, index))
        ? gpus.place(name, index, link.sab, mdevTypes[index], gpuTypes)
        : undefined,
    );
  }

  /** Gives a device's slot back, because its thread has ended. */
  release({ index }: VmDevice): void {
    const placement = this.all[index];
    placement?.gpu.release(placement.slot);
  }

  /** Ends the use of the GPUs, because the VM has ended here. */
  forget(): void {
    this.#gpus.forget(this.all);
  }
}
