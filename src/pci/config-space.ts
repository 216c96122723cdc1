/**
 * PCI configuration space: a type 0 header with MSI, MSI-X, PCI Express and device-specific capabilities, declared as a
 * register table.
 */

import { hexDigits } from '../memory/address.ts';
import { RegisterFile, type RegisterSpec } from '../registers/register-file.ts';
import type { BarNumber, PciCapability } from './capability.ts';
import {
  CONTROL_FUNCTION_RESET,
  CONTROL_PAYLOAD,
  type ExpressRegister,
  expressCapability,
} from './express.ts';
import { MSIX_ENABLE, type MsixConfigRegister, type MsixPlace, msixCapability } from './msix-format.ts';

export const CONFIG_SPACE_BYTES = 256;

/** Command register bits (PCI Local Bus Specification 3.0 §6.2.2). */
export const COMMAND_IO_SPACE = 1 << 0;
export const COMMAND_MEMORY_SPACE = 1 << 1;
export const COMMAND_BUS_MASTER = 1 << 2;
const STATUS_CAPABILITIES_LIST = 1n << 4n;

/** Offset of the MSI capability in the emulated devices. */
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
  | 'MsiControl'
  | 'MsiAddress'
  | 'MsiUpperAddress'
  | 'MsiData'
  | MsixConfigRegister
  | ExpressRegister;

/** Description of a device's configuration space. */
export interface PciIdentity {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  readonly revision: number;
  /** Base class, subclass and programming interface, as in 0x030200. */
  readonly classCode: number;
  /** Size of BAR 0: a power of two, at least 16 bytes. */
  readonly bar0Bytes: number;
  /** Sizes of BARs 1 to 5, likewise; 0 or undefined for an absent BAR. */
  readonly barBytes?: Readonly<Partial<Record<1 | 2 | 3 | 4 | 5, number>>>;
  /** BARs in I/O space, of at least 4 bytes. The others are in memory space. */
  readonly ioBars?: readonly BarNumber[];
  /** Memory BARs that are prefetchable. */
  readonly prefetchableBars?: readonly BarNumber[];
  /** 64-bit memory BARs. Each also occupies the next BAR, for the upper half of its address. */
  readonly wideBars?: readonly BarNumber[];
  /** Vectors of the MSI capability: 1 (default), 2, 4, 8, 16 or 32; 0 for no such capability. */
  readonly msiVectors?: number;
  /** Location of the MSI-X vectors; undefined for no such capability. */
  readonly msix?: MsixPlace;
  /** True for a PCI Express Root Complex Integrated Endpoint, which has function-level reset. */
  readonly express?: boolean;
  /** Device-specific capabilities, which precede MSI in the list. */
  readonly capabilities?: readonly PciCapability[];
  /** Registers after the header that belong to no capability. */
  readonly registers?: readonly RegisterSpec[];
  /** Reset values of Command and Status, without the capability list's bit; 0 by default. */
  readonly command?: number;
  readonly status?: number;
  /** 1 (INTA, default) to 4; 0 for none. */
  readonly interruptPin?: number;
}

/** Low bits of a BAR, which describe its type (§6.2.5.1). */
const BAR_IO = 1;
const BAR_64_BITS = 4;
const BAR_PREFETCHABLE = 8;
const BAR_FLAGS = 15;
const ALL32 = 0xffff_ffffn;

/** Returns the register of a BAR. Its address bits below its size are hard-wired to 0, so that software can size it. */
function bar(id: PciIdentity, index: BarNumber): RegisterSpec<ConfigRegister> {
  const at = { name: `Bar${index}`, offset: barOffset(index), size: 4 } as const;
  if (id.wideBars?.includes((index - 1) as BarNumber)) return { ...at, rw: ALL32 };
  const bytes = (index === 0 ? id.bar0Bytes : id.barBytes?.[index]) ?? 0;
  const isIo = id.ioBars?.includes(index) === true;
  const isPrefetchable = id.prefetchableBars?.includes(index) === true;
  const isWide = id.wideBars?.includes(index) === true;
  const memory = (isPrefetchable ? BAR_PREFETCHABLE : 0) | (isWide ? BAR_64_BITS : 0);
  const mask = bytes === 0 ? 0 : (-bytes & (isIo ? ~3 : ~15)) >>> 0;
  return { ...at, reset: BigInt(isIo ? BAR_IO : memory), rw: BigInt(mask) };
}

const BARS: readonly BarNumber[] = [0, 1, 2, 3, 4, 5];

const barOffset = (index: BarNumber): number => 0x10 + 4 * index;
/** Offsets of the base address registers. */
export const BAR_OFFSETS: readonly number[] = BARS.map(barOffset);

function table(id: PciIdentity): RegisterSpec<ConfigRegister>[] {
  const bits = BigInt;
  const { list, pointer } = capabilities(id);
  const status = bits(id.status ?? 0) | (pointer > 0 ? STATUS_CAPABILITIES_LIST : 0n);
  return [
    { name: 'VendorId', offset: 0x00, size: 2, reset: bits(id.vendorId) },
    { name: 'DeviceId', offset: 0x02, size: 2, reset: bits(id.deviceId) },
    { name: 'Command', offset: 0x04, size: 2, reset: bits(id.command ?? 0), rw: 0x0547n },
    { name: 'Status', offset: 0x06, size: 2, reset: status, w1c: 0xf900n },
    { name: 'RevisionId', offset: 0x08, size: 1, reset: bits(id.revision) },
    { name: 'ProgIf', offset: 0x09, size: 1, reset: bits(id.classCode & 0xff) },
    { name: 'SubClass', offset: 0x0a, size: 1, reset: bits((id.classCode >>> 8) & 0xff) },
    { name: 'BaseClass', offset: 0x0b, size: 1, reset: bits(id.classCode >>> 16) },
    { name: 'HeaderType', offset: 0x0e, size: 1 },
    ...BARS.map((index) => bar(id, index)),
    { name: 'SubsystemVendorId', offset: 0x2c, size: 2, reset: bits(id.subsystemVendorId) },
    { name: 'SubsystemId', offset: 0x2e, size: 2, reset: bits(id.subsystemId) },
    { name: 'CapabilitiesPointer', offset: 0x34, size: 1, reset: bits(pointer) },
    { name: 'InterruptLine', offset: 0x3c, size: 1, rw: 0xffn },
    { name: 'InterruptPin', offset: 0x3d, size: 1, reset: bits(id.interruptPin ?? 1) },
    ...list,
    // Device-specific registers have names that ConfigRegister does not list.
    ...((id.registers ?? []) as readonly RegisterSpec<ConfigRegister>[]),
  ];
}

/** Returns the linked capabilities: device-specific ones, then MSI, MSI-X and PCI Express if present. */
function capabilities(id: PciIdentity) {
  const chain: PciCapability[] = [...(id.capabilities ?? [])];
  const msiVectors = id.msiVectors ?? 1;
  if (msiVectors > 0) chain.push(msiCapability(msiVectors));
  if (id.msix) chain.push(msixCapability(id.msix));
  if (id.express) chain.push(expressCapability());
  const list = chain.flatMap(({ offset, id: kind, registers }, index) => [
    { name: `Capability${index}Id`, offset, size: 1 as const, reset: BigInt(kind) },
    {
      name: `Capability${index}Next`,
      offset: offset + 1,
      size: 1 as const,
      reset: BigInt(chain[index + 1]?.offset ?? 0),
    },
    ...registers,
  ]) as RegisterSpec<ConfigRegister>[];
  return { list, pointer: chain[0]?.offset ?? 0 };
}

/**
 * Returns MSI with 64-bit addresses (§6.8.1): Multiple Message Capable is bits 3:1, Multiple Message Enable bits 6:4.
 */
function msiCapability(vectors: number): PciCapability {
  const control = 0x80n | BigInt(Math.log2(vectors) << 1);
  const at = MSI_CAPABILITY;
  return {
    offset: at,
    id: 0x05,
    registers: [
      { name: 'MsiControl', offset: at + 2, size: 2, reset: control, rw: vectors > 1 ? 0x71n : 0x01n },
      { name: 'MsiAddress', offset: at + 4, size: 4, rw: 0xffff_fffcn },
      { name: 'MsiUpperAddress', offset: at + 8, size: 4, rw: ALL32 },
      { name: 'MsiData', offset: at + 12, size: 2, rw: 0xffffn },
    ],
  };
}

/** Filter of the vectors that a device with MSI-X raises: {@link Msix}. */
export interface VectorGate {
  /** Returns the vector to deliver now, or undefined for a masked vector, which becomes pending. */
  raise(vector: number): number | undefined;
  /** Returns the message of a vector. */
  message(vector: number): MsiMessage;
}

/** Address and data of a message-signalled interrupt. */
export interface MsiMessage {
  readonly address: number;
  readonly data: number;
}

/** Configuration space of one function. Undeclared offsets read as 0 and ignore writes, as reserved fields do. */
export class ConfigSpace {
  readonly registers: RegisterFile<ConfigRegister>;
  /** Count of interrupt vectors that the device may raise. A device without MSI and MSI-X has its interrupt pin. */
  readonly vectors: number;
  readonly #hasMsi: boolean;
  readonly #ioBars: readonly number[];
  readonly #wideBars: readonly number[];
  #vectors: VectorGate | undefined;
  #decodesAlways = false;

  /** @throws RegisterTableError if registers or capabilities overlap */
  constructor(identity: PciIdentity) {
    this.#hasMsi = identity.msiVectors !== 0;
    this.vectors = Math.max(1, identity.msiVectors ?? 1, identity.msix?.vectors ?? 0);
    this.#ioBars = identity.ioBars ?? [];
    this.#wideBars = identity.wideBars ?? [];
    this.registers = new RegisterFile(CONFIG_SPACE_BYTES, table(identity));
  }

  /** Passes vectors through MSI-X while software has it enabled. */
  useMsix(vectors: VectorGate): void {
    this.#vectors = vectors;
  }

  /**
   * Calls `action` when software resets the function (PCI Express Base Specification 4.0 §6.6.2). By then configuration
   * space has its reset values, except Max_Payload_Size, which is preserved.
   */
  onFunctionReset(action: () => void): void {
    this.registers.onWrite('ExpressControl', (control) => {
      if ((control & CONTROL_FUNCTION_RESET) === 0n) return;
      this.registers.reset();
      this.registers.set(
        'ExpressControl',
        (this.registers.get('ExpressControl') & ~CONTROL_PAYLOAD) | (control & CONTROL_PAYLOAD),
      );
      action();
    });
  }

  /** True if the device may send requests: memory reads and writes, and so MSI and MSI-X messages. */
  get busMaster(): boolean {
    return (this.registers.get32('Command') & COMMAND_BUS_MASTER) !== 0;
  }

  get memorySpace(): boolean {
    return (this.registers.get32('Command') & COMMAND_MEMORY_SPACE) !== 0;
  }

  /** Makes every BAR answer from now on: a VMM decodes for the device, and accesses its regions only when enabled. */
  decodeAlways(): void {
    this.#decodesAlways = true;
  }

  /** Returns true if the guest has enabled the space of a BAR. */
  decodes(bar: number): boolean {
    if (this.#decodesAlways) return true;
    const space = this.#ioBars.includes(bar) ? COMMAND_IO_SPACE : COMMAND_MEMORY_SPACE;
    return (this.registers.get32('Command') & space) !== 0;
  }

  /** Returns the address at which a memory BAR decodes accesses; undefined while it decodes none. */
  memoryBarAddress(bar: BarNumber): number | undefined {
    const isUpperHalf = this.#wideBars.includes(bar - 1);
    if (!this.memorySpace || this.#ioBars.includes(bar) || isUpperHalf) return undefined;
    const low = (this.registers.get32(`Bar${bar}`) & ~BAR_FLAGS) >>> 0;
    const upper = this.#wideBars.includes(bar) ? this.registers.get32(`Bar${bar + 1}` as ConfigRegister) : 0;
    return upper * 2 ** 32 + low || undefined;
  }

  get msiEnabled(): boolean {
    return this.#hasMsi && (this.registers.get32('MsiControl') & MSI_CONTROL_ENABLE) !== 0;
  }

  /** True if MSI-X is enabled. Software must not enable MSI at the same time (§6.8.2). */
  get msixEnabled(): boolean {
    return this.#vectors !== undefined && (this.registers.get32('MsixControl') & MSIX_ENABLE) !== 0;
  }

  /** Returns the current 256 bytes. It does not count as a software read. */
  bytes(): Uint8Array {
    const bytes = new Uint8Array(CONFIG_SPACE_BYTES);
    for (const { spec, value } of this.registers.entries())
      for (let i = 0; i < spec.size; i++) bytes[spec.offset + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    return bytes;
  }

  /**
   * Returns the vector that the guest receives when the device raises `vector`, or undefined while MSI is disabled or
   * MSI-X masks the vector. If software has enabled fewer MSI vectors than the device has (Multiple Message Enable),
   * the device's vectors share them.
   *
   * A message is a memory write, so without Bus Master Enable it is lost (PCI Express Base Specification 4.0
   * §7.5.1.1.3). A masked vector becomes pending all the same.
   */
  delivered(vector: number): number | undefined {
    const message = this.#message(vector);
    return this.busMaster ? message : undefined;
  }

  /** Returns the message of a vector that {@link delivered} has returned. With several MSI vectors it is in the data. */
  messageOf(vector: number): MsiMessage {
    if (this.msixEnabled && this.#vectors) return this.#vectors.message(vector);
    const address = this.registers.get32('MsiUpperAddress') * 2 ** 32 + this.registers.get32('MsiAddress');
    return { address, data: this.registers.get32('MsiData') | vector };
  }

  /** Returns the vector of the message that the function sends. */
  #message(vector: number): number | undefined {
    if (this.msixEnabled) return this.#vectors?.raise(vector);
    if (!this.msiEnabled) return undefined;
    const enabled = 1 << Math.min(5, (this.registers.get32('MsiControl') >>> 4) & 7);
    return vector & (enabled - 1);
  }
}

/** Returns the requester ID of bus, device and function numbers. */
export const requesterId = (bus: number, device: number, fn: number): number =>
  (bus << 8) | (device << 3) | fn;

/** Returns `bb:dd.f`, as lspci prints a requester ID. */
export const bdfText = (id: number): string =>
  `${hexDigits(id >>> 8, 2)}:${hexDigits((id >>> 3) & 31, 2)}.${id & 7}`;
