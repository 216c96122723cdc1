/**
 * The newer style of vGPUs, without mdev: each SR-IOV virtual function (VF) of a GPU is given a type.
 *
 * `nvidia/creatable_vgpu_types` lists lines `ID : NAME` of the types that fit now; a write of an ID to
 * `nvidia/current_vgpu_type` makes the vGPU, of 0 unmakes it. Both faces use one registry: a VF's vGPU is an instance
 * whose UUID follows from the VF's address, and takes its share of the GPU's capacity.
 */
import { MdevError } from './errors.ts';
import type { Parent } from './parent.ts';
import { parseUnsigned } from './parse.ts';
import type { MdevRegistry } from './registry.ts';
import { powerDir, ueventFile } from './sysfs-common.ts';
import { type DirNode, fixedDir, link, readOnly, readWrite } from './sysfs-node.ts';

/** The VFs' directories: beside that of their GPU. */
export function virtualFunctionPaths({ spec }: Parent): string[] {
  const bus = spec.device.slice(0, spec.device.lastIndexOf('/'));
  return (spec.virtualFunctions ?? []).map((name) => `${bus}/${name}`);
}

/** `virtfn0`, `virtfn1`, … in the GPU's own directory. */
export const virtualFunctionLinks = (parent: Parent): DirNode =>
  fixedDir(
    Object.fromEntries(virtualFunctionPaths(parent).map((path, index) => [`virtfn${index}`, link(path)])),
  );

/** The UUID of a VF's vGPU: its GPU's and its own address in the last 12 digits of an otherwise empty one. */
export function virtualFunctionUuid(name: string): string {
  const digits = name.replaceAll(/[^0-9a-f]/gi, '').toLowerCase();
  return `00000000-0000-0000-0000-${digits.slice(-12).padStart(12, '0')}`;
}

/** One VF's directory. */
export function virtualFunctionDir(registry: MdevRegistry, parent: Parent, path: string): DirNode {
  const uuid = virtualFunctionUuid(path.slice(path.lastIndexOf('/') + 1));
  const current = () => parent.instance(uuid);
  const nvidia = fixedDir({
    // A VF that has a vGPU can be given no other before it is unmade.
    creatable_vgpu_types: readOnly(() =>
      current()
        ? ''
        : creatable(parent)
            .map(({ id, name }) => `${id} : ${name}\n`)
            .join(''),
    ),
    current_vgpu_type: readWrite(
      () => `${current()?.type ?? 0}\n`,
      (text) => assign(registry, parent, uuid, parseUnsigned(text)),
    ),
  });
  return fixedDir({
    nvidia,
    physfn: link(parent.spec.device),
    power: powerDir,
    subsystem: link(parent.spec.subsystem),
    uevent: ueventFile(() => `PCI_SLOT_NAME=${path.slice(path.lastIndexOf('/') + 1)}\n`),
  });
}

const creatable = (parent: Parent) => [...parent.types()].filter((type) => parent.available(type) > 0);

/** Makes (an id) or unmakes (0) a VF's vGPU. @throws MdevError EINVAL, EBUSY, ENOSPC */
function assign(registry: MdevRegistry, parent: Parent, uuid: string, id: number): Promise<void> | undefined {
  const held = parent.instance(uuid);
  // An open one is refused rather than waited for: the VF itself stays, so there is no removal to wait in.
  if (held && (id !== 0 || held.openCount > 0))
    throw new MdevError('EBUSY', `the VF holds a vGPU of type ${held.type}, open ${held.openCount} times`);
  if (id === 0) return held && registry.remove(uuid);
  if (!parent.type(String(id))) throw new MdevError('EINVAL', `no vGPU type ${id}`);
  registry.create(parent.name, String(id), uuid);
  return undefined;
}
