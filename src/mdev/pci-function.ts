/**
 * Files of a PCI function's directory, as Linux shows them (drivers/pci/pci-sysfs.c, drivers/pci/iov.c).
 */
import { MdevError } from './errors.ts';
import type { Parent } from './parent.ts';
import { parseUnsigned, parseWord } from './parse.ts';
import type { PciSpec } from './spec.ts';
import { powerDir, ueventFile } from './sysfs-common.ts';
import {
  type DirNode,
  fixedDir,
  link,
  mappedDir,
  readOnly,
  readWrite,
  type SysfsNode,
} from './sysfs-node.ts';

/** A physical or virtual function. */
export interface PciFunction {
  readonly path: string;
  /** Such as `0000:5e:00.4`. */
  readonly address: string;
  readonly deviceId: number;
  readonly pci: PciSpec;
  /** Number of its IOMMU group, which contains no other function. */
  readonly iommuGroup: number;
}

/** Returns a parent's functions that are present: its own first, then the virtual ones. Empty without `pci`. */
export function pciFunctions({ spec, functionGroups, virtualFunctions }: Parent): PciFunction[] {
  const { pci, device } = spec;
  if (!pci) return [];
  const bus = device.slice(0, device.lastIndexOf('/') + 1);
  const paths = [device, ...virtualFunctions.map((name) => `${bus}${name}`)];
  return paths.map((path, index) => ({
    path,
    address: path.slice(path.lastIndexOf('/') + 1),
    deviceId: index > 0 ? (pci.vfDeviceId ?? pci.deviceId) : pci.deviceId,
    pci,
    iommuGroup: functionGroups[index] as number,
  }));
}

const hexText = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
const upper = (value: number, digits: number): string => hexText(value, digits).toUpperCase();

/** Returns the entries that every function's directory has. */
export function functionEntries(fn: PciFunction): Record<string, SysfsNode> {
  const { pci, deviceId, iommuGroup } = fn;
  const text = (value: string) => readOnly(() => `${value}\n`);
  return {
    class: text(`0x${hexText(pci.classCode, 6)}`),
    device: text(`0x${hexText(deviceId, 4)}`),
    driver: link(`/sys/bus/pci/drivers/${pci.driver}`),
    iommu_group: link(`/sys/kernel/iommu_groups/${iommuGroup}`),
    modalias: text(modalias(fn)),
    numa_node: text(String(pci.numaNode)),
    power: powerDir,
    resource: readOnly(() => RESOURCES),
    revision: text(`0x${hexText(pci.revision, 2)}`),
    subsystem: link('/sys/bus/pci'),
    subsystem_device: text(`0x${hexText(pci.subsystemId, 4)}`),
    subsystem_vendor: text(`0x${hexText(pci.subsystemVendorId, 4)}`),
    uevent: ueventFile(() => uevent(fn)),
    vendor: text(`0x${hexText(pci.vendorId, 4)}`),
  };
}

/** Content of `resource`: six BARs, the ROM and six of SR-IOV. Nothing here has a place in host memory. */
const RESOURCES = `${['', '', ''].map(() => `0x${hexText(0, 16)}`).join(' ')}\n`.repeat(13);

function modalias({ pci, deviceId }: PciFunction): string {
  const words = { v: pci.vendorId, d: deviceId, sv: pci.subsystemVendorId, sd: pci.subsystemId };
  const ids = Object.entries(words).map(([name, id]) => `${name}${upper(id, 8)}`);
  const [base, sub, programming] = [16, 8, 0].map((shift) => upper((pci.classCode >> shift) & 0xff, 2));
  return `pci:${ids.join('')}bc${base}sc${sub}i${programming}`;
}

const uevent = (fn: PciFunction): string =>
  [
    `DRIVER=${fn.pci.driver}`,
    `PCI_CLASS=${upper(fn.pci.classCode, 4)}`,
    `PCI_ID=${upper(fn.pci.vendorId, 4)}:${upper(fn.deviceId, 4)}`,
    `PCI_SUBSYS_ID=${upper(fn.pci.subsystemVendorId, 4)}:${upper(fn.pci.subsystemId, 4)}`,
    `PCI_SLOT_NAME=${fn.address}`,
    `MODALIAS=${modalias(fn)}`,
    '',
  ].join('\n');

/** Returns the files `sriov_*` of a physical function; empty for one without virtual functions. */
export function sriovEntries(parent: Parent): Record<string, SysfsNode> {
  const { virtualFunctions: all, pci } = parent.spec;
  if (!all || !pci) return {};
  let autoprobe = '1';
  const total = all.length;
  return {
    sriov_drivers_autoprobe: readWrite(
      () => `${autoprobe}\n`,
      (text) => {
        autoprobe = /^[0nN]/.test(text) ? '0' : '1';
        return undefined;
      },
    ),
    sriov_numvfs: readWrite(
      () => `${parent.virtualFunctions.length}\n`,
      (text) => enableFunctions(parent, text, total),
    ),
    sriov_offset: readOnly(() => `${routing(all[0]) - routing(parent.name)}\n`),
    sriov_stride: readOnly(() => `${total > 1 ? routing(all[1]) - routing(all[0]) : 0}\n`),
    sriov_totalvfs: readOnly(() => `${total}\n`),
    sriov_vf_device: readOnly(() => `${(pci.vfDeviceId ?? pci.deviceId).toString(16)}\n`),
  };
}

/** Enables so many virtual functions, or disables them all (sriov_numvfs_store). @throws MdevError */
function enableFunctions(parent: Parent, text: string, total: number): undefined {
  const count = parseUnsigned(text);
  const enabled = parent.virtualFunctions.length;
  if (count > total) throw new MdevError('ERANGE', `${count} virtual functions; accepted: up to ${total}`);
  if (count === enabled) return undefined;
  if (count > 0 && enabled > 0)
    throw new MdevError('EBUSY', `${enabled} virtual functions are enabled; write 0 first`);
  const held = [...parent.instances()].length;
  if (held > 0) throw new MdevError('EBUSY', `virtual functions hold ${held} vGPUs`);
  parent.enableFunctions(count);
  return undefined;
}

/** Returns the routing ID of an address, without its domain. */
function routing(address = ''): number {
  const [bus, device, fn] = address.split(':').slice(1).join('.').split('.');
  const number = (digits = '0') => Number.parseInt(digits, 16);
  return (number(bus) << 8) | (number(device) << 3) | number(fn);
}

/** Returns `/sys/bus/pci/drivers`: for each driver a directory with links to its functions. */
export const pciDriversDir = (functions: () => readonly PciFunction[]): DirNode =>
  mappedDir(() => {
    const drivers = new Map<string, Record<string, SysfsNode>>();
    for (const { path, address, pci } of functions()) {
      const links = drivers.get(pci.driver) ?? { uevent: ueventFile() };
      drivers.set(pci.driver, { ...links, [address]: link(path) });
    }
    return new Map([...drivers].map(([name, links]) => [name, fixedDir(links)]));
  });

/** Returns the directory of a function's IOMMU group. */
export const functionGroupDir = ({ path, address }: PciFunction): DirNode =>
  fixedDir({
    devices: fixedDir({ [address]: link(path) }),
    reserved_regions: readOnly(() => '0x00000000fee00000 0x00000000feefffff msi\n'),
    type: readWrite(
      () => 'DMA\n',
      (text) => {
        if (parseWord(text) === 'DMA') return undefined;
        throw new MdevError('EBUSY', 'the device of the group has a driver');
      },
    ),
  });
