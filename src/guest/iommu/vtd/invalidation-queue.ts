/**
 * Driver side of VT-d's invalidation queue (specification section 6.5.2).
 */

import * as vtd from '../../../abi/vtd.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import { CommandRing, type CommandRingState, type RingFormat } from '../command-ring.ts';

/** Count of 128-bit descriptors of a queue of one page (IQA.QS = 0); half as many 256-bit descriptors. */
export const QUEUE_ENTRIES = 256;

const NARROW: RingFormat = {
  name: 'invalidation queue',
  entries: QUEUE_ENTRIES,
  entryBytes: vtd.QI_DESCRIPTOR_BYTES,
  statusBytes: 4,
  tailRegister: vtd.IQT_REG,
  waitCommand: (statusGpa, value) => [
    vtd.QI_WAIT | vtd.WAIT_SW | vtd.WAIT_FN,
    value,
    statusGpa % 2 ** 32,
    Math.floor(statusGpa / 2 ** 32),
  ],
  reported: [
    ['IQH', vtd.IQH_REG, 8],
    ['IQT', vtd.IQT_REG, 8],
    ['FSTS', vtd.FSTS_REG, 4],
  ],
};
/** Scalable mode needs descriptors of 256 bits (IQA.DW). */
const WIDE: RingFormat = {
  ...NARROW,
  entries: QUEUE_ENTRIES / 2,
  entryBytes: vtd.QI_WIDE_DESCRIPTOR_BYTES,
};

/** An invalidation queue of one page. */
export class VtdQueue extends CommandRing {
  readonly #wide: boolean;

  /**
   * Allocates two pages.
   * @param wide descriptors of 256 bits
   * @param saved state of an installed queue; then no page is allocated
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    timeoutMs: number,
    wide: boolean,
    saved?: CommandRingState,
  ) {
    super(port, ram, pages, timeoutMs, wide ? WIDE : NARROW, saved);
    this.#wide = wide;
  }

  /** Writes the queue's address to the hardware. The caller enables the queue (GCMD.QIE). */
  async install(): Promise<void> {
    await this.port.write(vtd.IQT_REG, 8, 0n);
    await this.port.write(vtd.IQA_REG, 8, BigInt(this.ring) | (this.#wide ? vtd.IQA_DW : 0n));
  }
}
