import type { RegisterSpec } from '../registers/register-file.ts';

/**
 * A PCI capability as a declaration, and the number of a base address register.
 */

/** Number of a PCI base address register. */
export type BarNumber = 0 | 1 | 2 | 3 | 4 | 5;

/** A capability of a device's own. */
export interface PciCapability {
  /** Where it begins, a multiple of 4 from 0x40. */
  readonly offset: number;
  /** 0x09 for a vendor-specific one. */
  readonly id: number;
  /** What follows the ID and the next pointer, with offsets in configuration space. */
  readonly registers: readonly RegisterSpec[];
}
