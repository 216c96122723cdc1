/**
 * The directory of one mediated device.
 */
import type { Instance } from './instance.ts';
import { parseUnsigned } from './parse.ts';
import type { MdevRegistry } from './registry.ts';
import type { AttributeSpec } from './spec.ts';
import { powerDir, ueventFile } from './sysfs-common.ts';
import {
  type DirNode,
  type FileNode,
  fixedDir,
  link,
  readOnly,
  readWrite,
  type SysfsNode,
  writeOnly,
} from './sysfs-node.ts';

/**
 * Conditions for an entry's presence. While a removal waits for the last close, only the group is left: the kernel
 * removes it with the driver, after the wait (device_del, vfio_unregister_group_dev).
 */
const PRESENT = {
  active: ({ active }: Instance) => active,
  driven: ({ active, bound }: Instance) => active && bound,
  grouped: ({ iommuGroup }: Instance) => iommuGroup >= 0,
} as const;

interface Entry {
  readonly name: string;
  readonly when: keyof typeof PRESENT;
  node(instance: Instance, registry: MdevRegistry): SysfsNode;
}

const ENTRIES: readonly Entry[] = [
  { name: 'driver', when: 'driven', node: ({ owner }) => link(`/sys/bus/mdev/drivers/${owner.driver}`) },
  {
    name: 'iommu_group',
    when: 'grouped',
    node: ({ iommuGroup }) => link(`/sys/kernel/iommu_groups/${iommuGroup}`),
  },
  {
    name: 'mdev_type',
    when: 'active',
    node: ({ owner, type }) => link(`${owner.spec.device}/mdev_supported_types/${type}`),
  },
  { name: 'power', when: 'active', node: () => powerDir },
  { name: 'remove', when: 'active', node: removeFile },
  { name: 'subsystem', when: 'active', node: () => link('/sys/bus/mdev') },
  {
    name: 'uevent',
    when: 'active',
    node: (instance) => ueventFile(() => (instance.bound ? `DRIVER=${instance.owner.driver}\n` : '')),
  },
  { name: 'vfio-dev', when: 'driven', node: vfioDevDir },
];

/** Returns the directory in its present state. */
export function instanceDir(registry: MdevRegistry, instance: Instance): DirNode {
  const present = ENTRIES.filter(({ when }) => PRESENT[when](instance));
  const entries = Object.fromEntries(present.map(({ name, node }) => [name, node(instance, registry)]));
  return fixedDir({ ...entries, ...(PRESENT.driven(instance) ? attributeNodes(instance) : {}) });
}

/** Returns the file `remove`: any number but 0 removes the instance (remove_store). */
function removeFile({ uuid }: Instance, registry: MdevRegistry): FileNode {
  return writeOnly((text) => (parseUnsigned(text) === 0 ? undefined : registry.remove(uuid)));
}

function vfioDevDir({ owner, uuid, iommuGroup }: Instance): DirNode {
  const device = fixedDir({
    device: link(`${owner.spec.device}/${uuid}`),
    power: powerDir,
    subsystem: link('/sys/class/vfio-dev'),
    uevent: ueventFile(() => ''),
  });
  return fixedDir({ [`vfio${iommuGroup}`]: device });
}

/** Returns the driver's own files, with a directory for each path of two parts. */
function attributeNodes(instance: Instance): Record<string, SysfsNode> {
  const nodes: Record<string, SysfsNode> = {};
  const groups = new Map<string, Record<string, SysfsNode>>();
  for (const attribute of instance.spec.attributes ?? []) {
    const [group, name] = attribute.path.split('/') as [string, string | undefined];
    const file = attributeFile(instance, attribute);
    if (name === undefined) nodes[group] = file;
    else groups.set(group, { ...groups.get(group), [name]: file });
  }
  for (const [group, files] of groups) nodes[group] = fixedDir(files);
  return nodes;
}

function attributeFile(instance: Instance, attribute: AttributeSpec): FileNode {
  const read = () => `${instance.value(attribute)}\n`;
  if (!attribute.store) return readOnly(read);
  return readWrite(read, (text) => {
    instance.setValue(attribute, text);
    return undefined;
  });
}
