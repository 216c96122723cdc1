/**
 * The models that a device worker can run, by the name that a scenario uses.
 */

import { MDPY_MODES, type MdpyMode } from '../abi/mdpy.ts';
import { MTTY_PORTS } from '../abi/mtty.ts';
import type { ModelFactory } from '../device/model.ts';
import { factoryOf } from '../device/sdk/definition.ts';
import type { GpuSlotHandle } from '../gpu/engine-slot.ts';
import edu from './edu/edu.ts';
import { Mdpy } from './mdpy/mdpy.ts';
import { Mtty } from './mtty/mtty.ts';
import { Testdev } from './testdev/testdev.ts';
import { INJECTED_FAULTS } from './vgpu/fault-injection.ts';
import { Vgpu } from './vgpu/vgpu.ts';
import { createVirtioGpu } from './virtio-gpu/virtio-gpu.ts';
import { createVirtioRng } from './virtio-rng/virtio-rng.ts';

const serial =
  (ports: number): ModelFactory =>
  (context) =>
    new Mtty(context, ports);
const display =
  (mode: MdpyMode): ModelFactory =>
  () =>
    new Mdpy(mode);
/** Returns a factory for each type of a driver, by the type's name. */
const eachType = <T>(types: Readonly<Record<string, T>>, factory: (type: T) => ModelFactory) =>
  Object.fromEntries(Object.entries(types).map(([name, type]) => [name, factory(type)]));

export const MODELS: Readonly<Record<string, ModelFactory>> = {
  // A vgpu without a slot on a physical GPU has its own engine.
  vgpu: (context, { fault, gpu }) =>
    new Vgpu(context, fault === '' ? undefined : INJECTED_FAULTS[fault], gpu as GpuSlotHandle | undefined),
  edu: factoryOf(edu),
  mtty: serial(2),
  testdev: (context) => new Testdev(context),
  'virtio-rng': createVirtioRng,
  'virtio-gpu': createVirtioGpu,
  mdpy: display(MDPY_MODES['mdpy-vga']!),
  ...eachType(MTTY_PORTS, serial),
  ...eachType(MDPY_MODES, display),
};
