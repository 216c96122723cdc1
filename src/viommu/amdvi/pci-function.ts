/**
 * Configuration space of the IOMMU's own PCI function (specification section 3.2): identity, capability block and MSI.
 * Base and capabilities are read-only: the firmware has enabled the register page.
 */

import { CAPABILITY } from '../../abi/amdvi.ts';
import { RegisterFile, type RegisterSpec } from '../../registers/register-file.ts';

export const CONFIG_BYTES = 256;
/** GPA of the register page on QEMU's q35. */
const REGISTERS_GPA = 0xfed8_0000n;
/** Signaled target abort, in the status register. */
const STATUS_TARGET_ABORT = 0x0800n;
const MSI_ENABLE = 1n;

export type ConfigRegister =
  | 'PciIdentity'
  | 'PciCommand'
  | 'PciStatus'
  | 'PciClass'
  | 'PciSubsystem'
  | 'PciCapabilitiesPointer'
  | 'PciCapabilityHeader'
  | 'PciBaseLow'
  | 'PciRange'
  | 'PciMisc'
  | 'PciDummyMsi'
  | 'PciHyperTransport'
  | 'PciMsiHeader'
  | 'PciMsiControl'
  | 'PciMsiAddress'
  | 'PciMsiUpperAddress'
  | 'PciMsiData';

const TABLE: readonly RegisterSpec<ConfigRegister>[] = [
  { name: 'PciIdentity', offset: 0x00, size: 4, reset: 0x1419_1022n },
  { name: 'PciCommand', offset: 0x04, size: 2, rw: 0x0507n },
  { name: 'PciStatus', offset: 0x06, size: 2, reset: 0x0010n, w1c: 0xf900n },
  { name: 'PciClass', offset: 0x08, size: 4, reset: 0x0806_0000n },
  { name: 'PciSubsystem', offset: 0x2c, size: 4, reset: 0x1100_1af4n },
  { name: 'PciCapabilitiesPointer', offset: 0x34, size: 1, reset: 0x60n },
  // IotlbSup, HtTunnel, NpCache, EFRSup, CapExt; capability type 3.
  { name: 'PciCapabilityHeader', offset: CAPABILITY.HEADER, size: 4, reset: 0x1f03_000fn },
  { name: 'PciBaseLow', offset: CAPABILITY.BASE_LOW, size: 4, reset: REGISTERS_GPA },
  { name: 'PciRange', offset: CAPABILITY.RANGE, size: 4, reset: 0xff00_0000n },
  // 40-bit physical and 48-bit virtual addresses.
  { name: 'PciMisc', offset: CAPABILITY.MISC, size: 4, reset: 0x0018_2840n },
  { name: 'PciDummyMsi', offset: 0x58, size: 4, reset: 0x4005n },
  { name: 'PciHyperTransport', offset: 0x5c, size: 4, reset: 0x5808n },
  { name: 'PciMsiHeader', offset: 0x60, size: 2, reset: 0x5c05n },
  { name: 'PciMsiControl', offset: 0x62, size: 2, reset: 0x0080n, rw: MSI_ENABLE },
  { name: 'PciMsiAddress', offset: 0x64, size: 4, rw: 0xffff_fffcn },
  { name: 'PciMsiUpperAddress', offset: 0x68, size: 4, rw: 0xffff_ffffn },
  // QEMU stores all 32 bits.
  { name: 'PciMsiData', offset: 0x6c, size: 4, rw: 0xffff_ffffn },
];

/** Message of an interrupt: address and data. */
type MsiMessage = readonly [address: number, data: number];

export class PciFunction {
  readonly registers = new RegisterFile(CONFIG_BYTES, TABLE);

  /** The message of the function's MSI; undefined while it is disabled. */
  get message(): MsiMessage | undefined {
    const { registers } = this;
    if ((registers.get('PciMsiControl') & MSI_ENABLE) === 0n) return undefined;
    const address = registers.get32('PciMsiUpperAddress') * 2 ** 32 + registers.get32('PciMsiAddress');
    return [address, registers.get32('PciMsiData') & 0xffff];
  }

  /** Sets "signaled target abort": the unit has refused a request, or could not read a table. */
  signalTargetAbort(): void {
    this.registers.set('PciStatus', this.registers.get('PciStatus') | STATUS_TARGET_ABORT);
  }
}
