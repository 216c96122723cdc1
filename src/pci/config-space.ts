/**
 * PCI configuration space, type 0 header, with an MSI capability: declared as a register table.
 */
import { RegisterFile, type RegisterSpec } from './registers.ts';

export const CONFIG_SPACE_BYTES = 256;

/** Command register bits (PCI Local Bus Specification 3.0 §6.2.2). */
export const COMMAND_MEMORY_SPACE = 1 << 1;
export const COMMAND_BUS_MASTER = 1 << 2;
const STATUS_CAPABILITIES_LIST = 1n << 4n;

/** Offset of the MSI capability in this emulator's devices. */
export const MSI_CAPABILITY = 0x50;
export const MSI_CONTROL_ENABLE = 1;

export type ConfigRegister =
  | 'VendorId'
  | 'DeviceId'
  | 'Command'
  | 'Status'
  | 'RevisionId'
  | 'ProgIf'
  | 'SubClass'
  | 'BaseClass'
  | 'HeaderType'
  | 'Bar0'
  | 'Bar1'
  | 'Bar2'
  | 'Bar3'
  | 'Bar4'
  | 'Bar5'
  | 'SubsystemVendorId'
  | 'SubsystemId'
  | 'CapabilitiesPointer'
  | 'InterruptLine'
  | 'InterruptPin'
  | 'MsiCapabilityId'
  | 'MsiNext'
  | 'MsiControl'
  | 'MsiAddress'
  | 'MsiUpperAddress'
  | 'MsiData';

/** What distinguishes one device's header from another's. */
export interface PciIdentity {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  readonly revision: number;
  /** Base class, subclass and programming interface, as in 0x030200. */
  readonly classCode: number;
  /** Size of BAR 0, a power of two of at least 16 bytes. */
  readonly bar0Bytes: number;
  /** Sizes of the 32-bit memory BARs 1 to 5, likewise; 0 or nothing for one that is not there. */
  readonly barBytes?: Readonly<Partial<Record<1 | 2 | 3 | 4 | 5, number>>>;
  /** Vectors that the MSI capability offers: 1 (the default), 2, 4, 8, 16 or 32. */
  readonly msiVectors?: number;
}

/** A BAR's low bits are hard-wired to 0 up to its size: that is how software sizes it. */
const barMask = (bytes: number): bigint =>
  bytes === 0 ? 0n : BigInt((-bytes >>> 0) & 0xffff_fff0) & 0xffff_ffffn;

function table(id: PciIdentity): RegisterSpec<ConfigRegister>[] {
  const bits = BigInt;
  return [
    { name: 'VendorId', offset: 0x00, size: 2, reset: bits(id.vendorId) },
    { name: 'DeviceId', offset: 0x02, size: 2, reset: bits(id.deviceId) },
    { name: 'Command', offset: 0x04, size: 2, rw: 0x0547n },
    { name: 'Status', offset: 0x06, size: 2, reset: STATUS_CAPABILITIES_LIST, w1c: 0xf900n },
    { name: 'RevisionId', offset: 0x08, size: 1, reset: bits(id.revision) },
    { name: 'ProgIf', offset: 0x09, size: 1, reset: bits(id.classCode & 0xff) },
    { name: 'SubClass', offset: 0x0a, size: 1, reset: bits((id.classCode >>> 8) & 0xff) },
    { name: 'BaseClass', offset: 0x0b, size: 1, reset: bits(id.classCode >>> 16) },
    { name: 'HeaderType', offset: 0x0e, size: 1 },
    { name: 'Bar0', offset: 0x10, size: 4, rw: barMask(id.bar0Bytes) },
    { name: 'Bar1', offset: 0x14, size: 4, rw: barMask(id.barBytes?.[1] ?? 0) },
    { name: 'Bar2', offset: 0x18, size: 4, rw: barMask(id.barBytes?.[2] ?? 0) },
    { name: 'Bar3', offset: 0x1c, size: 4, rw: barMask(id.barBytes?.[3] ?? 0) },
    { name: 'Bar4', offset: 0x20, size: 4, rw: barMask(id.barBytes?.[4] ?? 0) },
    { name: 'Bar5', offset: 0x24, size: 4, rw: barMask(id.barBytes?.[5] ?? 0) },
    { name: 'SubsystemVendorId', offset: 0x2c, size: 2, reset: bits(id.subsystemVendorId) },
    { name: 'SubsystemId', offset: 0x2e, size: 2, reset: bits(id.subsystemId) },
    { name: 'CapabilitiesPointer', offset: 0x34, size: 1, reset: bits(MSI_CAPABILITY) },
    { name: 'InterruptLine', offset: 0x3c, size: 1, rw: 0xffn },
    { name: 'InterruptPin', offset: 0x3d, size: 1, reset: 1n },
    // MSI with 64-bit addresses (§6.8.1): Multiple Message Capable in bits 1-3, Enable in bits 4-6.
    { name: 'MsiCapabilityId', offset: MSI_CAPABILITY, size: 1, reset: 0x05n },
    { name: 'MsiNext', offset: MSI_CAPABILITY + 1, size: 1 },
    {
      name: 'MsiControl',
      offset: MSI_CAPABILITY + 2,
      size: 2,
      reset: 0x80n | bits(Math.log2(id.msiVectors ?? 1) << 1),
      rw: (id.msiVectors ?? 1) > 1 ? 0x71n : 0x01n,
    },
    { name: 'MsiAddress', offset: MSI_CAPABILITY + 4, size: 4, rw: 0xffff_fffcn },
    { name: 'MsiUpperAddress', offset: MSI_CAPABILITY + 8, size: 4, rw: 0xffff_ffffn },
    { name: 'MsiData', offset: MSI_CAPABILITY + 12, size: 2, rw: 0xffffn },
  ];
}

/** One function's configuration space. Undeclared offsets read 0 and ignore writes, as reserved fields do. */
export class ConfigSpace {
  readonly registers: RegisterFile<ConfigRegister>;

  constructor(identity: PciIdentity) {
    this.registers = new RegisterFile(CONFIG_SPACE_BYTES, table(identity));
  }

  /** True if the device may put requests on the bus. */
  get busMaster(): boolean {
    return (this.registers.get32('Command') & COMMAND_BUS_MASTER) !== 0;
  }

  get memorySpace(): boolean {
    return (this.registers.get32('Command') & COMMAND_MEMORY_SPACE) !== 0;
  }

  get msiEnabled(): boolean {
    return (this.registers.get32('MsiControl') & MSI_CONTROL_ENABLE) !== 0;
  }

  /**
   * The vector that the guest sees when the device raises `vector`: software may have enabled fewer than the device
   * has (Multiple Message Enable), and then they are shared. Undefined while MSI is disabled.
   */
  delivered(vector: number): number | undefined {
    if (!this.msiEnabled) return undefined;
    const enabled = 1 << Math.min(5, (this.registers.get32('MsiControl') >>> 4) & 7);
    return vector & (enabled - 1);
  }
}

/** A requester ID from bus, device and function numbers. */
export const requesterId = (bus: number, device: number, fn: number): number =>
  (bus << 8) | (device << 3) | fn;

/** `bb:dd.f`, as lspci prints it. */
export const bdfText = (id: number): string =>
  `${(id >>> 8).toString(16).padStart(2, '0')}:${((id >>> 3) & 31).toString(16).padStart(2, '0')}.${id & 7}`;
