/**
 * The tasks of a VM's workers: shared memory and numbers.
 */
import type { GuestJournal } from '../../channel/guest-journal.ts';
import { PEERS_LIMIT } from '../../channel/peer-block.ts';
import type { DeviceOptions } from '../../device/model.ts';
import type { DeviceTask } from '../../device/runtime.ts';
import type { GuestTask } from '../../guest/protocol.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Placement } from '../gpu-pool.ts';
import { modelAt } from '../model-names.ts';
import type { VmConfig, VmContext } from './config.ts';
import type { VmDevice } from './device.ts';

/** Faults for `--inject` that the device model `vgpu` implements. */
export const MODEL_FAULTS: ReadonlySet<string> = new Set([
  'stale-translation',
  'never-unpin',
  'worker-crash',
]);

/** The parts of a VM that its workers' tasks are made of. */
export interface VmParts {
  readonly config: VmConfig;
  readonly context: VmContext;
  readonly ram: GuestRam;
  readonly journal: GuestJournal;
  readonly devices: readonly VmDevice[];
}

export function deviceTask(
  { config, context, ram, devices }: VmParts,
  device: VmDevice,
  placement: Placement | undefined,
): DeviceTask {
  const { process, vm, inject } = config;
  const { doorbell, doorbellSenders, firstBit, gpus } = context;
  const options: DeviceOptions = {
    // Only one device of the VM is faulty; the others must not be affected.
    fault: device.index === 0 && MODEL_FAULTS.has(inject) ? inject : '',
    ...(placement && { gpu: gpus.handle(placement) }),
  };
  return {
    process,
    vm,
    device: device.index,
    name: device.name,
    model: modelAt(config.model, device.index),
    modelSource: config.modelSource,
    options,
    link: device.link.sab,
    pinTable: device.table.handle,
    readerSlot: device.slot,
    memory: ram.host.handle,
    coordinatorDoorbell: doorbell,
    coordinatorSenders: doorbellSenders,
    coordinatorBit: firstBit + 1 + device.index,
    resuming: config.migrations > 0,
    peers: peersOf(devices, device),
  };
}

/** Returns the links of the devices that reach each other, if `device` is one of them. */
function peersOf(devices: readonly VmDevice[], { index }: VmDevice): SharedArrayBuffer[] | undefined {
  if (devices.length < 2 || index >= PEERS_LIMIT) return undefined;
  return devices.slice(0, PEERS_LIMIT).map(({ link }) => link.sab);
}

export function guestTask(
  { config, context, ram, journal }: VmParts,
  devices: readonly VmDevice[],
  iommuMmio: SharedArrayBuffer,
  loadState: string,
): GuestTask {
  const { vm, seed, scenario, params, viommu, inject, model, folder } = config;
  return {
    vm,
    seed,
    scenario,
    params,
    folder,
    ram: ram.handle,
    devices: devices.map(({ name, requesterId, link }) => ({ name, requesterId, link: link.sab, folder })),
    model,
    viommu,
    journal: journal.sab,
    load: config.load,
    loadState,
    iommuMmio,
    coordinatorDoorbell: context.doorbell,
    coordinatorSenders: context.doorbellSenders,
    coordinatorBit: context.firstBit,
    fault: inject === 'skip-invalidation' ? inject : '',
  };
}
