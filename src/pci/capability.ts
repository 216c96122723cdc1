/**
 * Declaration of a PCI capability, and the number of a base address register.
 */
import type { RegisterSpec } from '../registers/register-file.ts';

/** Number of a PCI base address register. */
export type BarNumber = 0 | 1 | 2 | 3 | 4 | 5;

/** A device-specific capability. */
export interface PciCapability {
  /** Offset of its first byte, a multiple of 4 from 0x40. */
  readonly offset: number;
  /** Capability ID; 0x09 is vendor-specific. */
  readonly id: number;
  /** Registers after the ID and the next pointer, with offsets in configuration space. */
  readonly registers: readonly RegisterSpec[];
}
