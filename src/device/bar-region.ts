import type { UnimplementedCount } from '../registers/register-file.ts';

/**
 * What answers behind a BAR.
 */

/** Number of a PCI base address register. */
export type BarIndex = 0 | 1 | 2 | 3 | 4 | 5;

export const BAR_INDICES: readonly BarIndex[] = [0, 1, 2, 3, 4, 5];

/** What is behind a BAR: a register file, or memory that a model answers for itself. */
export interface BarRegion {
  /** Bytes. */
  readonly size: number;
  /** A software read of 1, 2, 4 or 8 bytes. */
  read(offset: number, size: number): bigint;
  write(offset: number, size: number, value: bigint): void;
  /** Strings of accesses, within the region; without them they are taken apart. */
  readBlock?(offset: number, target: Uint8Array): void;
  writeBlock?(offset: number, source: Uint8Array): void;
  /** Offset → accesses that nothing implements, for the report. */
  readonly unimplemented?: ReadonlyMap<number, Readonly<UnimplementedCount>>;
  /** Such accesses that are not in the map. */
  readonly unimplementedOthers?: number;
  /** Name of the register at `offset`, for messages. */
  nameAt?(offset: number): string | undefined;
}
