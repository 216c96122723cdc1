/**
 * MSI-X as registers (PCI Local Bus Specification 3.0 §6.8.2): the capability in configuration space; the table of
 * vectors and the array of pending bits in a BAR.
 */

import type { RegisterSpec } from '../registers/register-file.ts';
import type { BarNumber, PciCapability } from './capability.ts';

/** Offset of the capability in this emulator's devices. */
export const MSIX_CAPABILITY = 0x60;
/** Message Control: vectors go by MSI-X; and all of them are masked. */
export const MSIX_ENABLE = 1 << 15;
export const MSIX_FUNCTION_MASK = 1 << 14;
/** Bytes of a table entry: address, upper address, data and vector control, 32 bits each. */
export const MSIX_ENTRY_BYTES = 16;
export const MSIX_ENTRY_DATA = 8;
export const MSIX_ENTRY_CONTROL = 12;
/** Vector control: the vector is masked. */
export const MSIX_VECTOR_MASKED = 1;
/** Vectors that a device here may have: the guest's end counts no more. */
export const MSIX_VECTORS_MAX = 32;

const ID = 0x11;
const ALL32 = 0xffff_ffffn;

export type MsixConfigRegister = 'MsixControl' | 'MsixTable' | 'MsixPending';

/** Where a device has its vectors. Both offsets are multiples of 8; table and pending bits are in the same BAR. */
export interface MsixPlace {
  /** 1 to MSIX_VECTORS_MAX. */
  readonly vectors: number;
  readonly bar: BarNumber;
  readonly table: number;
  readonly pending: number;
}

/** @throws RangeError */
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

/** Name of a vector's control word, and of the array of pending bits, in the BAR's registers. */
export const msixControlName = (vector: number): string => `MsixVector${vector}Control`;
export const MSIX_PENDING_NAME = 'MsixPendingBits';

/** The BAR's registers: a table whose vectors are masked at reset, and pending bits that only the device sets. */
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
