/**
 * Errors of mappings in a domain's page tables.
 */
import { hex } from '../../memory/address.ts';

/** Thrown for a range that is empty, not page-aligned, or beyond the domain's address width. */
export class MappingRangeError extends RangeError {
  override name = 'MappingRangeError';
}

/** Thrown if part of the range to map is mapped already; nothing was changed. */
export class IovaInUse extends Error {
  constructor(iova: number) {
    super(`IOVA ${hex(iova)} is already mapped`);
    this.name = 'IovaInUse';
  }
}

/** Thrown if the range to unmap covers only part of a large page; nothing was changed. */
export class PartialUnmap extends Error {
  constructor(iova: number, size: number) {
    super(`the range covers only part of the ${size}-byte page mapped at IOVA ${hex(iova)}`);
    this.name = 'PartialUnmap';
  }
}
