/**
 * Registers of MSI-X (PCI Local Bus Specification 3.0 §6.8.2): the capability in configuration space, and the vector
 * table and Pending Bit Array in a BAR.
 */

import type { RegisterSpec } from '../registers/register-file.ts';
import type { BarNumber, PciCapability } from './capability.ts';

/** Offset of the capability in the emulated devices. */
export const MSIX_CAPABILITY = 0x60;
/** Message Control: MSI-X Enable and Function Mask. */
export const MSIX_ENABLE = 1 << 15;
export const MSIX_FUNCTION_MASK = 1 << 14;
/** Bytes of a table entry: address, upper address, data and vector control, 32 bits each. */
export const MSIX_ENTRY_BYTES = 16;
export const MSIX_ENTRY_DATA = 8;
export const MSIX_ENTRY_CONTROL = 12;
/** Vector Control: the vector is masked. */
export const MSIX_VECTOR_MASKED = 1;
/** Most vectors of a device: the guest counts no more. */
export const MSIX_VECTORS_MAX = 32;

const ID = 0x11;
const ALL32 = 0xffff_ffffn;

export type MsixConfigRegister = 'MsixControl' | 'MsixTable' | 'MsixPending';

/** Location of a device's vectors. Table and pending bits are in the same BAR, at multiples of 8. */
export interface MsixPlace {
  /** 1 to MSIX_VECTORS_MAX. */
  readonly vectors: number;
  readonly bar: BarNumber;
  readonly table: number;
  readonly pending: number;
}

/** Returns the capability. @throws RangeError */
export function msixCapability({ vectors, bar, table, pending }: MsixPlace): PciCapability {
  if (!(Number.isInteger(vectors) && vectors >= 1 && vectors <= MSIX_VECTORS_MAX))
    throw new RangeError(`${vectors} MSI-X vectors; accepted: 1 to ${MSIX_VECTORS_MAX}`);
  if (table % 8 !== 0 || pending % 8 !== 0)
    throw new RangeError(`MSI-X table at ${table}, pending bits at ${pending}; accepted: multiples of 8`);
  const at = MSIX_CAPABILITY;
  return {
    offset: at,
    id: ID,
    registers: [
      { name: 'MsixControl', offset: at + 2, size: 2, reset: BigInt(vectors - 1), rw: 0xc000n },
      { name: 'MsixTable', offset: at + 4, size: 4, reset: BigInt(table | bar) },
      { name: 'MsixPending', offset: at + 8, size: 4, reset: BigInt(pending | bar) },
    ],
  };
}

/** Names of a vector's control word and of the Pending Bit Array in the BAR's registers. */
export const msixControlName = (vector: number): string => `MsixVector${vector}Control`;
export const MSIX_PENDING_NAME = 'MsixPendingBits';

/**
 * Returns the BAR's registers: a table with all vectors masked at reset, and pending bits that only the device sets.
 */
export function msixRegisters({ vectors, table, pending }: MsixPlace): RegisterSpec[] {
  const entries = Array.from({ length: vectors }, (_, vector): RegisterSpec[] => {
    const at = table + vector * MSIX_ENTRY_BYTES;
    return [
      { name: `MsixVector${vector}Address`, offset: at, size: 4, rw: 0xffff_fffcn },
      { name: `MsixVector${vector}UpperAddress`, offset: at + 4, size: 4, rw: ALL32 },
      { name: `MsixVector${vector}Data`, offset: at + MSIX_ENTRY_DATA, size: 4, rw: ALL32 },
      { name: msixControlName(vector), offset: at + MSIX_ENTRY_CONTROL, size: 4, reset: 1n, rw: 1n },
    ];
  });
  return [...entries.flat(), { name: MSIX_PENDING_NAME, offset: pending, size: 8 }];
}
