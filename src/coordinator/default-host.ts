/**
 * The host that the commands show when they are given no other: one GPU that is divided through mdev, and one of the
 * newer kind whose virtual functions are given types.
 */
import { GPU_VRAM_MIB, VGPU_TYPES, type VgpuType } from '../gpu/types.ts';
import { MdevRegistry } from '../mdev/registry.ts';
import type { ParentSpec, TypeSpec } from '../mdev/spec.ts';

const MIB_PER_GIB = 1024;

/** Memory of each type that the host's GPUs offer, MiB: the vGPU types of a whole number of GiB. */
const SHARES_MIB: readonly number[] = VGPU_TYPES.map(({ vramMiB }) => vramMiB).filter(
  (mib) => mib % MIB_PER_GIB === 0,
);

/** The number of the newer kind's first type. */
const FIRST_TYPE_NUMBER = 1001;

const typeSpec = (id: string, shareMib: number): TypeSpec => ({
  id,
  name: `mdevsim vGPU ${shareMib / MIB_PER_GIB}G`,
  description: `framebuffer=${shareMib}M, max_instance=${GPU_VRAM_MIB / shareMib}\n`,
  deviceApi: 'vfio-pci',
  share: shareMib,
});

/** What lspci would ask of either GPU: a display controller. */
const PCI_FILES: Readonly<Record<string, string>> = { class: '0x030200', numa_node: '0' };

const gpu = (bus: string): Omit<ParentSpec, 'types'> => ({
  name: `0000:${bus}:00.0`,
  driver: 'mdevsim',
  device: `/sys/devices/pci0000:${bus}/0000:${bus}:00.0`,
  subsystem: '/sys/bus/pci',
  capacity: { kind: 'units', total: GPU_VRAM_MIB },
  uevent: `PCI_CLASS=30200\nPCI_SLOT_NAME=0000:${bus}:00.0\n`,
  files: PCI_FILES,
});

/** Divided through `mdev_supported_types`: `vgpu-1g` to `vgpu-16g`. */
export const MDEV_GPU: ParentSpec = {
  ...gpu('3b'),
  types: SHARES_MIB.map((share) => typeSpec(`vgpu-${share / MIB_PER_GIB}g`, share)),
};

/** Divided through four virtual functions: types 1001 to 1005. */
export const SRIOV_GPU: ParentSpec = {
  ...gpu('5e'),
  types: SHARES_MIB.map((share, index) => typeSpec(String(FIRST_TYPE_NUMBER + index), share)),
  virtualFunctions: ['0000:5e:00.4', '0000:5e:00.5', '0000:5e:00.6', '0000:5e:00.7'],
};

/** Returns the vGPU type with the same memory as this mdev type of the host's GPUs; undefined for any other id. */
export function typeOfMdev(id: string): VgpuType | undefined {
  const share = [...MDEV_GPU.types, ...SRIOV_GPU.types].find((type) => type.id === id)?.share;
  return VGPU_TYPES.find(({ vramMiB }) => vramMiB === share);
}

/** Name of a run's own parent. */
export const SOFTWARE_GPU = 'vgpu';
/** Its only type: the model `vgpu`, of which a machine has as many as it can start. */
export const SOFTWARE_GPU_TYPE = 'vgpu-1';

/** The parent of the vGPUs that a scenario asks for by number alone; one beyond `instances` is EUSERS. */
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
 * The host of a run: the default host's GPUs and the run's own parent, with room for `instances`. `holderOf` names who
 * uses an instance, for its file `mdevsim/vm_name`.
 */
export function runHost(instances: number, holderOf: (uuid: string) => string): MdevRegistry {
  const attributes = [{ path: 'mdevsim/vm_name', initial: holderOf }];
  const registry = new MdevRegistry();
  for (const spec of [softwareGpu(instances), MDEV_GPU, SRIOV_GPU])
    registry.addParent({ ...spec, types: spec.types.map((type) => ({ ...type, attributes })) });
  return registry;
}

/** A registry with both GPUs and no instances. */
export function defaultHost(): MdevRegistry {
  const registry = new MdevRegistry();
  registry.addParent(MDEV_GPU);
  registry.addParent(SRIOV_GPU);
  return registry;
}
