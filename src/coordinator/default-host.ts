/**
 * The default host of all commands. It has two physical GPUs: the types of one are mdev types, those of the other are
 * assigned to SR-IOV virtual functions.
 */
import { VGPU_IDENTITY } from '../abi/vgpu/vgpu.ts';
import { GPU_VRAM_MIB, VGPU_TYPES, type VgpuType } from '../gpu/types.ts';
import { MdevRegistry } from '../mdev/registry.ts';
import type { ParentSpec, PciSpec, TypeSpec } from '../mdev/spec.ts';

const MIB_PER_GIB = 1024;

/** The vGPU types that the host's GPUs offer: those with a whole number of GiB. */
const OFFERED_TYPES: readonly VgpuType[] = VGPU_TYPES.filter(({ vramMiB }) => vramMiB % MIB_PER_GIB === 0);

/** Id of the SR-IOV GPU's first type. Its type ids are numbers. */
const FIRST_TYPE_NUMBER = 1001;

const typeSpec = (id: string, { vramMiB }: VgpuType): TypeSpec => ({
  id,
  name: `mdevsim vGPU ${vramMiB / MIB_PER_GIB}G`,
  description: `framebuffer=${vramMiB}M, max_instance=${GPU_VRAM_MIB / vramMiB}\n`,
  deviceApi: 'vfio-pci',
  share: vramMiB,
});

/** Identity of the mdev GPU: that of the device model `vgpu`. */
const OWN_PCI: PciSpec = { ...VGPU_IDENTITY, driver: 'mdevsim', numaNode: 0 };

/** Identity of the SR-IOV GPU. Its VFs have NVIDIA's files, so that code which looks for them finds an NVIDIA A16. */
const NVIDIA_PCI: PciSpec = {
  vendorId: 0x10de,
  deviceId: 0x25b6,
  subsystemVendorId: 0x10de,
  subsystemId: 0x14a9,
  revision: 0xa1,
  classCode: 0x03_02_00, // 3D controller
  driver: 'nvidia',
  numaNode: 0,
};

const gpu = (bus: string, pci: PciSpec): Omit<ParentSpec, 'types'> => ({
  name: `0000:${bus}:00.0`,
  driver: 'mdevsim',
  device: `/sys/devices/pci0000:${bus}/0000:${bus}:00.0`,
  subsystem: '/sys/bus/pci',
  capacity: { kind: 'units', total: GPU_VRAM_MIB },
  pci,
});

/** Has the mdev types `vgpu-1g` to `vgpu-16g`. */
export const MDEV_GPU: ParentSpec = {
  ...gpu('3b', OWN_PCI),
  types: OFFERED_TYPES.map((type) => typeSpec(type.id, type)),
};

/** Has four virtual functions and the types 1001 to 1005. */
export const SRIOV_GPU: ParentSpec = {
  ...gpu('5e', NVIDIA_PCI),
  types: OFFERED_TYPES.map((type, index) => typeSpec(String(FIRST_TYPE_NUMBER + index), type)),
  virtualFunctions: ['0000:5e:00.4', '0000:5e:00.5', '0000:5e:00.6', '0000:5e:00.7'],
};

/** Returns the vGPU type of a type id of the host's GPUs; undefined for any other id. */
export function typeOfMdev(id: string): VgpuType | undefined {
  return [MDEV_GPU, SRIOV_GPU]
    .map(({ types }) => OFFERED_TYPES[types.findIndex((type) => type.id === id)])
    .find((type) => type !== undefined);
}

/** Name of the parent that each run adds to the host. */
export const SOFTWARE_GPU = 'vgpu';
/** Its only type: the device model `vgpu`. */
export const SOFTWARE_GPU_TYPE = 'vgpu-1';

/** Returns the parent of vGPUs that a scenario requests by count alone. It has room for `instances` of them. */
const softwareGpu = (instances: number): ParentSpec => ({
  name: SOFTWARE_GPU,
  driver: 'vgpu',
  device: '/sys/devices/virtual/vgpu/vgpu',
  subsystem: '/sys/class/vgpu',
  capacity: { kind: 'instances', total: instances },
  types: [
    {
      id: SOFTWARE_GPU_TYPE,
      name: 'mdevsim vGPU',
      description: `without a GPU of its own, max_instance=${instances}\n`,
      deviceApi: 'vfio-pci',
    },
  ],
});

/**
 * Returns the host of a run: the default host's GPUs, and the run's own parent with room for `instances`.
 * `holderOf` returns the name of the VM's device that uses an instance, for the file `mdevsim/vm_name`.
 */
export function runHost(instances: number, holderOf: (uuid: string) => string): MdevRegistry {
  const attributes = [{ path: 'mdevsim/vm_name', initial: holderOf }];
  const registry = new MdevRegistry();
  for (const spec of [softwareGpu(instances), MDEV_GPU, SRIOV_GPU])
    registry.addParent({ ...spec, types: spec.types.map((type) => ({ ...type, attributes })) });
  return registry;
}

/** Returns a registry with both GPUs and no instances. */
export function defaultHost(): MdevRegistry {
  const registry = new MdevRegistry();
  registry.addParent(MDEV_GPU);
  registry.addParent(SRIOV_GPU);
  return registry;
}
