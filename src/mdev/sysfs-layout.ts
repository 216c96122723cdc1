/**
 * The layout of the sysfs tree. Every access computes it from the registry's present state.
 */

import { MdevError } from './errors.ts';
import type { Instance } from './instance.ts';
import type { Parent } from './parent.ts';
import { parseWord } from './parse.ts';
import {
  functionEntries,
  functionGroupDir,
  type PciFunction,
  pciDriversDir,
  pciFunctions,
  sriovEntries,
} from './pci-function.ts';
import type { MdevRegistry } from './registry.ts';
import type { TypeSpec } from './spec.ts';
import { powerDir, ueventFile } from './sysfs-common.ts';
import { instanceDir } from './sysfs-instance.ts';
import {
  type DirNode,
  fixedDir,
  link,
  liveDir,
  mappedDir,
  readOnly,
  readWrite,
  type SysfsNode,
  unionDir,
  writeOnly,
} from './sysfs-node.ts';
import { functionsOf, virtualFunctionDir, virtualFunctionLinks } from './virtual-functions.ts';

/** Returns a directory with a link for each item; of two items with the same name, the last one counts. */
const linksDir = <T>(
  items: () => Iterable<T>,
  nameOf: (item: T) => string,
  targetOf: (item: T) => string,
): DirNode => mappedDir(() => new Map([...items()].map((item) => [nameOf(item), link(targetOf(item))])));

/** Returns the tree's root, `/`. */
export function sysfsRoot(registry: MdevRegistry): DirNode {
  const top = {
    bus: busDir(registry),
    class: classDir(registry),
    devices: devicesDir(registry, '/sys/devices'),
    kernel: fixedDir({ iommu_groups: groupsDir(registry) }),
    module: moduleDir(registry),
  };
  return fixedDir({ sys: fixedDir(top) });
}

/** Returns the instances on the mdev bus: those of mdev parents. */
function* mdevs(registry: MdevRegistry): Generator<Instance> {
  for (const parent of registry.parents()) if (parent.isMdev) yield* parent.instances();
}

const instancePath = (instance: Instance): string => `${instance.owner.spec.device}/${instance.uuid}`;

const driverNames = (registry: MdevRegistry): Set<string> =>
  new Set([...registry.parents()].filter(({ isMdev }) => isMdev).map(({ driver }) => driver));

// ---- /sys/bus

function busDir(registry: MdevRegistry): DirNode {
  return unionDir(fixedDir({ mdev: mdevBusDir(registry) }), subsystemsDir(registry, '/sys/bus'));
}

function mdevBusDir(registry: MdevRegistry): DirNode {
  // drivers_autoprobe is stored but has no effect: no mdev driver binds by itself.
  let autoprobe = '1';
  return fixedDir({
    devices: {
      ...linksDir(
        () => [...mdevs(registry)].filter(({ active }) => active),
        ({ uuid }) => uuid,
        instancePath,
      ),
      child: (name) => mdevLink(registry, name),
    },
    drivers: liveDir(
      () => driverNames(registry),
      (name) => (driverNames(registry).has(name) ? driverDir(registry, name) : undefined),
    ),
    drivers_autoprobe: readWrite(
      () => `${autoprobe}\n`,
      (text) => {
        autoprobe = text.startsWith('0') ? '0' : '1';
        return undefined;
      },
    ),
    drivers_probe: writeOnly((text) => {
      const uuid = parseWord(text);
      if (!mdevLink(registry, uuid)) throw new MdevError('EINVAL', `no device ${uuid} on the bus`);
      return undefined;
    }),
    uevent: ueventFile(),
  });
}

/** Returns the bus's link to one instance, without a search through all instances. */
function mdevLink(registry: MdevRegistry, uuid: string): SysfsNode | undefined {
  const parent = registry.get(uuid)?.parent;
  const owner = parent === undefined ? undefined : registry.parent(parent);
  const instance = owner?.isMdev ? owner.instance(uuid) : undefined;
  return instance?.active ? link(instancePath(instance)) : undefined;
}

function driverDir(registry: MdevRegistry, driver: string): DirNode {
  const bound = linksDir(
    () => [...mdevs(registry)].filter((i) => i.owner.driver === driver && i.active && i.bound),
    ({ uuid }) => uuid,
    instancePath,
  );
  const files = fixedDir({
    // `bind` needs a match, and on this bus no driver matches by itself (mdev_bus_match).
    bind: writeOnly((text) => {
      throw new MdevError('ENODEV', `${driver} does not match ${parseWord(text)}`);
    }),
    module: link(`/sys/module/${driver}`),
    uevent: ueventFile(),
    unbind: writeOnly((text) => registry.unbind(driver, parseWord(text))),
  });
  return unionDir(files, bound);
}

// ---- /sys/class and other buses

function classDir(registry: MdevRegistry): DirNode {
  const mdevBus = linksDir(
    () => [...registry.parents()].filter(({ isMdev }) => isMdev),
    ({ name }) => name,
    ({ spec }) => spec.device,
  );
  const vfioDev = linksDir(
    () => [...mdevs(registry)].filter(({ iommuGroup }) => iommuGroup >= 0),
    ({ iommuGroup }) => `vfio${iommuGroup}`,
    (instance) => `${instancePath(instance)}/vfio-dev/vfio${instance.iommuGroup}`,
  );
  return unionDir(
    fixedDir({ mdev_bus: mdevBus, 'vfio-dev': vfioDev }),
    subsystemsDir(registry, '/sys/class'),
  );
}

/** Returns the parents' own classes or buses, with a link to each of their devices. */
function subsystemsDir(registry: MdevRegistry, base: '/sys/bus' | '/sys/class'): DirNode {
  const names = () =>
    new Set(
      [...registry.parents()]
        .map(({ spec }) => spec.subsystem)
        .filter((subsystem) => subsystem.startsWith(`${base}/`))
        .map((subsystem) => subsystem.slice(base.length + 1)),
    );
  const members = (subsystem: string) => {
    const paths = () =>
      [...registry.parents()]
        .filter(({ spec }) => spec.subsystem === subsystem)
        .flatMap((parent) => [parent.spec.device, ...functionsOf(parent).map(({ path }) => path)]);
    return linksDir(
      paths,
      (path) => path.slice(path.lastIndexOf('/') + 1),
      (path) => path,
    );
  };
  return liveDir(names, (name) => {
    if (!names().has(name)) return undefined;
    const links = members(`${base}/${name}`);
    // A class contains the links itself, a bus in its directory `devices`.
    if (base === '/sys/class') return links;
    return fixedDir({ devices: links, drivers: pciDriversDir(() => allFunctions(registry)) });
  });
}

// ---- /sys/devices

/** Returns all device directories of the parents and their virtual functions, with their paths. */
function* deviceDirs(registry: MdevRegistry): Generator<readonly [path: string, dir: () => DirNode]> {
  for (const parent of registry.parents()) {
    yield [parent.spec.device, () => parentDir(registry, parent)];
    for (const fn of functionsOf(parent)) yield [fn.path, () => virtualFunctionDir(registry, parent, fn)];
  }
}

function devicesDir(registry: MdevRegistry, base: string): DirNode {
  const below = () => [...deviceDirs(registry)].filter(([path]) => path.startsWith(`${base}/`));
  return liveDir(
    () => new Set(below().map(([path]) => path.slice(base.length + 1).split('/', 1)[0] as string)),
    (name) => {
      const path = `${base}/${name}`;
      const here = below().find(([place]) => place === path);
      if (here) return here[1]();
      const through = below().some(([place]) => place.startsWith(`${path}/`));
      return through ? devicesDir(registry, path) : undefined;
    },
  );
}

function parentDir(registry: MdevRegistry, parent: Parent): DirNode {
  const [own] = pciFunctions(parent);
  const common = own
    ? { ...functionEntries(own), ...sriovEntries(parent) }
    : { power: powerDir, subsystem: link(parent.spec.subsystem), uevent: ueventFile(() => '') };
  if (!parent.isMdev) return unionDir(fixedDir(common), virtualFunctionLinks(parent));
  const instances = liveDir(
    () => [...parent.instances()].map(({ uuid }) => uuid),
    (uuid) => {
      const instance = parent.instance(uuid);
      return instance && instanceDir(registry, instance);
    },
  );
  return unionDir(fixedDir({ ...common, mdev_supported_types: typesDir(registry, parent) }), instances);
}

function typesDir(registry: MdevRegistry, parent: Parent): DirNode {
  return liveDir(
    () => [...parent.types()].map(({ id }) => id),
    (id) => {
      const type = parent.type(id);
      return type && typeDir(registry, parent, type);
    },
  );
}

function typeDir(registry: MdevRegistry, parent: Parent, type: TypeSpec): DirNode {
  const { description } = type;
  return fixedDir({
    available_instances: readOnly(() => `${parent.available(type)}\n`),
    create: writeOnly((text) => {
      registry.create(parent.name, type.id, text);
      return undefined;
    }),
    ...(description === undefined ? {} : { description: readOnly(() => description) }),
    device_api: readOnly(() => `${type.deviceApi}\n`),
    devices: linksDir(
      () => [...parent.instances()].filter((instance) => instance.spec === type && instance.active),
      ({ uuid }) => uuid,
      instancePath,
    ),
    name: readOnly(() => `${type.name}\n`),
  });
}

// ---- /sys/kernel/iommu_groups

const groupsDir = (registry: MdevRegistry): DirNode =>
  mappedDir(
    () =>
      new Map([
        ...allFunctions(registry).map((fn) => [String(fn.iommuGroup), functionGroupDir(fn)] as const),
        ...[...mdevs(registry)]
          .filter(({ iommuGroup }) => iommuGroup >= 0)
          .map((instance) => [String(instance.iommuGroup), groupDir(instance)] as const),
      ]),
  );

const allFunctions = (registry: MdevRegistry): PciFunction[] =>
  [...registry.parents()].flatMap((parent) => pciFunctions(parent));

const groupDir = (member: Instance): DirNode =>
  fixedDir({
    devices: fixedDir({ [member.uuid]: link(instancePath(member)) }),
    name: readOnly(() => 'vfio-noiommu\n'),
    reserved_regions: readOnly(() => ''),
    type: readWrite(
      () => 'unknown\n',
      () => {
        throw new MdevError('EINVAL', 'a group without an IOMMU has no domain type to change');
      },
    ),
  });

// ---- /sys/module

/** Files of the module `mdev`, as recorded. */
const MDEV_MODULE: Readonly<Record<string, string>> = {
  coresize: '20480\n',
  initsize: '0\n',
  initstate: 'live\n',
  taint: '\n',
  version: '0.1\n',
};

function moduleDir(registry: MdevRegistry): DirNode {
  const mdev = fixedDir({
    ...Object.fromEntries(Object.entries(MDEV_MODULE).map(([name, text]) => [name, readOnly(() => text)])),
    holders: linksDir(
      () => driverNames(registry),
      (name) => name,
      (name) => `/sys/module/${name}`,
    ),
    refcnt: readOnly(() => `${driverNames(registry).size}\n`),
    uevent: ueventFile(),
  });
  const driver = (name: string) =>
    fixedDir({
      drivers: fixedDir({ [`mdev:${name}`]: link(`/sys/bus/mdev/drivers/${name}`) }),
      holders: fixedDir({}),
    });
  const drivers = liveDir(
    () => driverNames(registry),
    (name) => (driverNames(registry).has(name) ? driver(name) : undefined),
  );
  return unionDir(fixedDir({ mdev }), drivers);
}
