/**
 * Table of AMD-Vi's registers (specification section 3.4), with reset values of QEMU's model.
 */

import * as amdvi from '../../abi/amdvi.ts';
import { RegisterFile, type RegisterSpec } from '../../registers/register-file.ts';
import type { Quirks } from '../quirks.ts';

/** Capabilities of a unit. They determine the extended feature register. */
export interface AmdViCapabilities {
  /** False makes page tables illegal in device table entries (HATS 3); default true. */
  readonly dmaTranslation?: boolean;
  /** XTSup: the unit's own interrupts may use x2APIC's format; default false. */
  readonly xtsup?: boolean;
}

export type AmdViRegister =
  | 'DeviceTable'
  | 'CommandBase'
  | 'EventBase'
  | 'Control'
  | 'ExclusionBase'
  | 'ExclusionLimit'
  | 'ExtendedFeature'
  | 'PprBase'
  | 'GeneralInterrupt'
  | 'CommandHead'
  | 'CommandTail'
  | 'EventHead'
  | 'EventTail'
  | 'Status'
  | 'PprHead'
  | 'PprTail';

const ALL = 0xffff_ffff_ffff_ffffn;
const POINTER = BigInt(amdvi.POINTER_MASK);
const BUFFER = amdvi.BASE_ADDRESS_MASK | (amdvi.BUFFER_LENGTH_MASK << amdvi.BUFFER_LENGTH_SHIFT);
/** Bits 63:8 have no function but are stored. */
const STATUS_STORED = 0xffff_ffff_ffff_ff00n;
const STATUS_CLEARED =
  amdvi.STATUS.EVENT_OVERFLOW |
  amdvi.STATUS.EVENT_LOG_INT |
  amdvi.STATUS.COM_WAIT_INT |
  amdvi.STATUS.PPR_OVERFLOW |
  amdvi.STATUS.PPR_INT;

function extendedFeatures({ dmaTranslation = true, xtsup = false }: AmdViCapabilities): bigint {
  const { FEATURE } = amdvi;
  const levels = dmaTranslation ? FEATURE.HATS_6_LEVELS : FEATURE.HATS_NONE;
  return (
    FEATURE.PREFETCH |
    FEATURE.PPR |
    FEATURE.GUEST_TRANSLATION |
    FEATURE.INVALIDATE_ALL |
    FEATURE.GUEST_APIC |
    FEATURE.HARDWARE_ERROR |
    (levels << FEATURE.HATS_SHIFT) |
    FEATURE.GATS_6_LEVELS |
    (xtsup ? FEATURE.XT : 0n)
  );
}

function table(options: AmdViCapabilities, quirks: Quirks): RegisterSpec<AmdViRegister>[] {
  const asQemu = quirks === 'qemu';
  // QEMU stores reserved bits.
  const stores = (bits: bigint) => ({ size: 8, rw: asQemu ? ALL : bits }) as const;
  return [
    // Bits 63:52 are stored in both modes: recordings that the specification covers read them back.
    { name: 'DeviceTable', offset: amdvi.DEVICE_TABLE_REG, size: 8, rw: ALL, spec: '3.4.1' },
    { name: 'CommandBase', offset: amdvi.COMMAND_BASE_REG, ...stores(BUFFER), spec: '3.4.2' },
    { name: 'EventBase', offset: amdvi.EVENT_BASE_REG, ...stores(BUFFER), spec: '3.4.2' },
    { name: 'Control', offset: amdvi.CONTROL_REG, size: 8, rw: ALL, spec: '3.4.3' },
    {
      name: 'ExclusionBase',
      offset: amdvi.EXCLUSION_BASE_REG,
      size: 8,
      // QEMU has no exclusion range.
      rw: asQemu ? 0n : amdvi.BASE_ADDRESS_MASK | amdvi.EXCLUSION_ENABLE | amdvi.EXCLUSION_ALLOW,
      spec: '3.4.4',
    },
    {
      name: 'ExclusionLimit',
      offset: amdvi.EXCLUSION_LIMIT_REG,
      ...stores(amdvi.BASE_ADDRESS_MASK),
      spec: '3.4.5',
    },
    {
      name: 'ExtendedFeature',
      offset: amdvi.EXTENDED_FEATURE_REG,
      size: 8,
      reset: extendedFeatures(options),
      spec: '3.4.6',
    },
    { name: 'PprBase', offset: amdvi.PPR_BASE_REG, ...stores(BUFFER), spec: '3.4.7' },
    { name: 'GeneralInterrupt', offset: amdvi.GENERAL_INTERRUPT_REG, size: 8, rw: ALL, spec: '3.4.13' },
    { name: 'CommandHead', offset: amdvi.COMMAND_HEAD_REG, ...stores(POINTER), spec: '3.4.14' },
    { name: 'CommandTail', offset: amdvi.COMMAND_TAIL_REG, ...stores(POINTER), spec: '3.4.14' },
    { name: 'EventHead', offset: amdvi.EVENT_HEAD_REG, ...stores(POINTER), spec: '3.4.15' },
    { name: 'EventTail', offset: amdvi.EVENT_TAIL_REG, ...stores(POINTER), spec: '3.4.15' },
    {
      name: 'Status',
      offset: amdvi.STATUS_REG,
      size: 8,
      rw: STATUS_STORED,
      w1c: STATUS_CLEARED,
      spec: '3.4.16',
    },
    { name: 'PprHead', offset: amdvi.PPR_HEAD_REG, ...stores(POINTER), spec: '3.4.17' },
    { name: 'PprTail', offset: amdvi.PPR_TAIL_REG, ...stores(POINTER), spec: '3.4.17' },
  ];
}

export type AmdViRegisterFile = RegisterFile<AmdViRegister>;

/** Returns a register file in its reset state. */
export const createRegisters = (options: AmdViCapabilities, quirks: Quirks): AmdViRegisterFile =>
  new RegisterFile(amdvi.REGISTER_BYTES, table(options, quirks));

/** Sets or clears bits of the status register. */
export function setStatus(registers: AmdViRegisterFile, bits: bigint, on: boolean): void {
  const status = registers.get('Status');
  registers.set('Status', on ? status | bits : status & ~bits);
}

/** Place of a command buffer or log: GPA and bytes. */
export interface BufferPlace {
  readonly base: number;
  readonly bytes: number;
}

/** Returns the place that a base register names, with entries of 16 bytes. Lengths below 8 are reserved but used. */
export const placeOf = (register: bigint): BufferPlace => ({
  base: Number(register & amdvi.BASE_ADDRESS_MASK),
  bytes: 16 * 2 ** Number((register >> amdvi.BUFFER_LENGTH_SHIFT) & amdvi.BUFFER_LENGTH_MASK),
});
