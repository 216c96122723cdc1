/**
 * vGPUs without mdev: each SR-IOV virtual function (VF) of a GPU gets a type.
 *
 * `nvidia/creatable_vgpu_types` lists the types that fit now, in lines `ID : NAME`. Writing an ID to
 * `nvidia/current_vgpu_type` creates the VF's vGPU, writing 0 removes it. In the registry, a VF's vGPU is an instance like
 * any other: its UUID is derived from the VF's address, and it takes its share of the GPU's capacity.
 */
import { MdevError } from './errors.ts';
import type { Parent } from './parent.ts';
import { parseUnsigned } from './parse.ts';
import { functionEntries, type PciFunction, pciFunctions } from './pci-function.ts';
import type { MdevRegistry } from './registry.ts';
import { type DirNode, fixedDir, link, mappedDir, readOnly, readWrite } from './sysfs-node.ts';

/** Returns the links `virtfn0`, `virtfn1`, … of the GPU's directory. */
export const virtualFunctionLinks = (parent: Parent): DirNode =>
  mappedDir(() => new Map(functionsOf(parent).map(({ path }, index) => [`virtfn${index}`, link(path)])));

/** Returns the VFs, which have directories beside their GPU's. */
export const functionsOf = (parent: Parent): PciFunction[] => pciFunctions(parent).slice(1);

/** Returns the UUID of a VF's vGPU: zeros, with the VF's PCI address at the end. */
function virtualFunctionUuid(name: string): string {
  const digits = name.replaceAll(/[^0-9a-f]/gi, '').toLowerCase();
  return `00000000-0000-0000-0000-${digits.slice(-12).padStart(12, '0')}`;
}

/** Returns a VF's directory. */
export function virtualFunctionDir(registry: MdevRegistry, parent: Parent, fn: PciFunction): DirNode {
  const uuid = virtualFunctionUuid(fn.address);
  const current = () => parent.instance(uuid);
  const nvidia = fixedDir({
    // A VF with a vGPU cannot get another one until that is removed.
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
  return fixedDir({ ...functionEntries(fn), nvidia, physfn: link(parent.spec.device) });
}

const creatable = (parent: Parent) => [...parent.types()].filter((type) => parent.available(type) > 0);

/** Creates (an id) or removes (0) a VF's vGPU. @throws MdevError EINVAL, EBUSY, ENOSPC */
function assign(registry: MdevRegistry, parent: Parent, uuid: string, id: number): Promise<void> | undefined {
  const held = parent.instance(uuid);
  // Refuses to remove an open vGPU. Waiting is for removed devices, and the VF itself stays.
  if (held && (id !== 0 || held.openCount > 0))
    throw new MdevError('EBUSY', `the VF holds a vGPU of type ${held.type}, open ${held.openCount} times`);
  if (id === 0) return held && registry.remove(uuid);
  if (!parent.type(String(id))) throw new MdevError('EINVAL', `no vGPU type ${id}`);
  registry.create(parent.name, String(id), uuid);
  return undefined;
}
