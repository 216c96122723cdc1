/**
 * The guest's device table: an entry for each requester ID up to the highest one (specification section 2.2.2).
 *
 * Entries are written in place, the word with the valid bits last. The hardware uses the new entry after its invalidation.
 */

import * as amdvi from '../../../abi/amdvi.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';

/** Target of an entry. `root` is the GPA of the top-level page table; undefined for pass-through. */
interface DeviceTarget {
  readonly domainId: number;
  readonly levels: number;
  readonly root: number | undefined;
}

/** State of the table: its GPA and its pages. */
export interface DeviceTableState {
  readonly base: number;
  readonly pages: number;
}

const BLOCKED = amdvi.DTE_V;

export class GuestDeviceTable {
  readonly #ram: GuestRam;
  readonly #base: number;
  readonly #pages: number;

  /**
   * Allocates the table with every device blocked.
   * @param highest highest requester ID
   * @param saved table that is in guest RAM already
   * @throws PageAllocatorExhausted
   */
  constructor(ram: GuestRam, pages: PageAllocator, highest: number, saved?: DeviceTableState) {
    this.#ram = ram;
    this.#pages = saved?.pages ?? Math.floor(highest / amdvi.DTES_PER_PAGE) + 1;
    this.#base = saved?.base ?? pages.allocateRun(this.#pages);
    if (saved) return;
    for (let id = 0; id < this.#pages * amdvi.DTES_PER_PAGE; id++) ram.write32(this.#entry(id), BLOCKED);
  }

  save(): DeviceTableState {
    return { base: this.#base, pages: this.#pages };
  }

  /** Value of the device table base register. */
  get register(): bigint {
    return BigInt(this.#base) | BigInt(this.#pages - 1);
  }

  /** Returns true if the table has an entry for this requester ID. */
  has(requesterId: number): boolean {
    return requesterId < this.#pages * amdvi.DTES_PER_PAGE;
  }

  set(requesterId: number, { domainId, levels, root }: DeviceTarget): void {
    const entry = this.#entry(requesterId);
    const mode = root === undefined ? amdvi.MODE_NONE : levels;
    const flags = amdvi.DTE_V | amdvi.DTE_TV | (mode << amdvi.MODE_SHIFT);
    const gpa = root ?? 0;
    this.#ram.write32(entry + 8, domainId);
    this.#ram.write32(entry + 4, Math.floor(gpa / 2 ** 32) + amdvi.IR + amdvi.IW);
    this.#ram.write32(entry, (gpa % 2 ** 32) + flags);
  }

  /** Blocks a device: V without TV, as Linux's blocked domain. */
  clear(requesterId: number): void {
    const entry = this.#entry(requesterId);
    this.#ram.write32(entry, BLOCKED);
    this.#ram.write32(entry + 4, 0);
    this.#ram.write32(entry + 8, 0);
  }

  #entry(requesterId: number): number {
    return this.#base + requesterId * amdvi.DTE_BYTES;
  }
}
