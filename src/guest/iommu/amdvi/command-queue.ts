/**
 * Driver side of AMD-Vi's command buffer, and its commands (specification section 2.4).
 */

import * as amdvi from '../../../abi/amdvi.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import { CommandRing, type CommandRingState, type Descriptor, type RingFormat } from '../command-ring.ts';

const FORMAT: RingFormat = {
  name: 'command buffer',
  entries: 2 ** Number(amdvi.BUFFER_LENGTH_MIN),
  entryBytes: amdvi.COMMAND_BYTES,
  statusBytes: 8,
  tailRegister: amdvi.COMMAND_TAIL_REG,
  waitCommand: (statusGpa, value) => [
    (statusGpa % 2 ** 32) + amdvi.WAIT_S,
    opcode(amdvi.COMPLETION_WAIT, Math.floor(statusGpa / 2 ** 32)),
    value,
    0,
  ],
  reported: [
    ['head', amdvi.COMMAND_HEAD_REG, 8],
    ['tail', amdvi.COMMAND_TAIL_REG, 8],
    ['status', amdvi.STATUS_REG, 8],
  ],
};

/** A command buffer of one page. */
export class CommandQueue extends CommandRing {
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    timeoutMs: number,
    saved?: CommandRingState,
  ) {
    super(port, ram, pages, timeoutMs, FORMAT, saved);
  }

  /** Writes the buffer's place to the hardware, which sets head and tail to 0. */
  async install(): Promise<void> {
    await this.port.write(amdvi.COMMAND_BASE_REG, 8, baseOf(this.ring));
  }
}

/** Returns the value of a base register for a buffer or log of one page. */
export const baseOf = (page: number): bigint =>
  BigInt(page) | (amdvi.BUFFER_LENGTH_MIN << amdvi.BUFFER_LENGTH_SHIFT);

const opcode = (code: number, low: number): number => (code << amdvi.OPCODE_SHIFT) + low;

/** INVALIDATE_IOMMU_ALL. */
export const INVALIDATE_ALL: Descriptor = [0, (amdvi.INVALIDATE_IOMMU_ALL << amdvi.OPCODE_SHIFT) >>> 0, 0, 0];

/** Returns INVALIDATE_DEVTAB_ENTRY. */
export const invalidateDevice = (requesterId: number): Descriptor => [
  requesterId,
  opcode(amdvi.INVALIDATE_DEVTAB_ENTRY, 0),
  0,
  0,
];

/** Returns INVALIDATE_IOMMU_PAGES of a whole domain, page directories included. */
export const invalidateDomain = (domainId: number): Descriptor => [
  0,
  opcode(amdvi.INVALIDATE_IOMMU_PAGES, domainId),
  0xffff_f000 + amdvi.PAGES_S + amdvi.PAGES_PDE,
  0x7fff_ffff,
];

/** Returns INVALIDATE_IOMMU_PAGES of 2^`mask` pages at `iova`, page directories included. */
export function invalidatePages(domainId: number, iova: number, mask: number): Descriptor {
  // The lowest 0 at or above bit 12 encodes the size, which is twice the bit's value.
  const address = mask === 0 ? iova : iova + (2 ** (mask - 1) - 1) * 4096;
  return [
    0,
    opcode(amdvi.INVALIDATE_IOMMU_PAGES, domainId),
    (address % 2 ** 32) + amdvi.PAGES_PDE + (mask === 0 ? 0 : amdvi.PAGES_S),
    Math.floor(address / 2 ** 32),
  ];
}
