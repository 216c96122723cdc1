import type { UnimplementedCount } from '../registers/register-file.ts';

/** The region behind a BAR. */

/** Number of a PCI base address register. */
export type BarIndex = 0 | 1 | 2 | 3 | 4 | 5;

export const BAR_INDICES: readonly BarIndex[] = [0, 1, 2, 3, 4, 5];

/** The region behind a BAR: a register file, or a region that a model implements. */
export interface BarRegion {
  /** Size in bytes. */
  readonly size: number;
  /** Performs a software read of 1, 2, 4 or 8 bytes. */
  read(offset: number, size: number): bigint;
  write(offset: number, size: number, value: bigint): void;
  /** Block accesses within the region. A region without them gets single accesses. */
  readBlock?(offset: number, target: Uint8Array): void;
  writeBlock?(offset: number, source: Uint8Array): void;
  /** Accesses that nothing implements, by offset, for the report. */
  readonly unimplemented?: ReadonlyMap<number, Readonly<UnimplementedCount>>;
  /** Count of such accesses that are not in the map. */
  readonly unimplementedOthers?: number;
  /** A file with the region's bytes, and the parts of it that a VMM may map. */
  readonly shared?: {
    readonly fd: number;
    readonly areas: readonly { readonly offset: number; readonly size: number }[];
  };
  /** Returns the name of the register at `offset`, for messages. */
  nameAt?(offset: number): string | undefined;
}
