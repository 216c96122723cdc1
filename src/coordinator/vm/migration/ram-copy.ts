/**
 * Guest RAM on its way to another host: which pages are still to be sent, and their sending, while the VM runs.
 *
 * What is dirty comes from two logs: the RAM log, for what the guest and the vIOMMU write (memory/ram-log.ts), and each
 * device's container, for what devices write or hold pinned (VFIO_IOMMU_DIRTY_PAGES). Both take a mark away before the
 * page is copied, and both mark after the bytes: a page that changes while it is copied is sent again.
 */
import { yieldTurn } from '#host';
import type { FrameSocket } from '../../../channel/frame-socket.ts';
import { type Gpa, type Iova, PAGE_SIZE } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { DirtyTracker } from '../../../vfio/dirty-tracker.ts';

/** Most bytes of RAM in one frame: about what a socket hands over at once, so that the other side need not join pieces. */
export const RAM_FRAME_BYTES: number = 15 * PAGE_SIZE;
/** Most bytes of zeros in one frame, which says only how many: looking for them takes as long as other work may wait. */
const ZERO_FRAME_BYTES: number = 2 ** 20;
/** RAM of which a harvest asks a container at once: the coordinator serves others in between. */
const HARVEST_BYTES: number = 16 * 2 ** 20;

/** Pages by number, in RAM order. */
class PageSet {
  size = 0;
  readonly #bits: Uint8Array;

  constructor(pages: number) {
    this.#bits = new Uint8Array(pages);
  }

  add(page: number): void {
    if (this.#bits[page] === 0) this.size++;
    this.#bits[page] = 1;
  }

  has(page: number): boolean {
    return this.#bits[page] === 1;
  }

  delete(page: number): void {
    if (this.#bits[page] === 1) this.size--;
    this.#bits[page] = 0;
  }
}

export class RamCopy {
  /** Bytes of pages sent, zero pages included. */
  bytesSent = 0;
  readonly #ram: GuestRam;
  readonly #trackers: readonly DirtyTracker[];
  readonly #socket: FrameSocket;
  readonly #pending: PageSet;
  readonly #buffer = new Uint8Array(RAM_FRAME_BYTES);
  /** RAM at the other side is zero until something is sent. */
  #first = true;

  /** `ram` has a log attached, in every thread that writes it; the trackers are started by {@link start}. */
  constructor(ram: GuestRam, trackers: readonly DirtyTracker[], socket: FrameSocket) {
    this.#ram = ram;
    this.#trackers = trackers;
    this.#socket = socket;
    this.#pending = new PageSet(ram.pages);
  }

  /** Begins to track what devices write; everything is to be sent. */
  async start(): Promise<void> {
    await Promise.all(this.#trackers.map((tracker) => tracker.start()));
    for (let page = 0; page < this.#ram.pages; page++) this.#pending.add(page);
  }

  stop(): void {
    for (const tracker of this.#trackers) tracker.stop();
    this.#ram.stopLog();
  }

  /** Bytes of RAM that are still to be sent, as far as known. */
  get pendingBytes(): number {
    return this.#pending.size * PAGE_SIZE;
  }

  /** Adds what has become dirty since the last harvest. */
  async harvest(): Promise<void> {
    this.#ram.log?.harvest((page) => this.#pending.add(page));
    for (const { gpa, size } of this.#ram.regions)
      for (let at = 0; at < size; at += HARVEST_BYTES) {
        this.#harvestDevices((gpa + at) as Gpa, Math.min(HARVEST_BYTES, size - at));
        await yieldTurn();
      }
  }

  /** Sends every page that is to be sent now. What becomes dirty meanwhile is for the next harvest. */
  async send(): Promise<void> {
    await this.#runs(false);
    this.#first = false;
  }

  /** Sends all of RAM to be compared. The VM must not run. */
  async sendForComparison(): Promise<void> {
    for (let page = 0; page < this.#ram.pages; page++) this.#pending.add(page);
    this.#first = false;
    await this.#runs(true);
  }

  #harvestDevices(gpa: Gpa, size: number): void {
    const first = this.#ram.pageIndex(gpa);
    for (const tracker of this.#trackers) {
      // The containers' view of memory is by GPA, whatever the devices' IOVAs are.
      const bitmap = tracker.memory(gpa as number as Iova, size);
      for (let byte = 0; byte < bitmap.length; byte++)
        for (let bits = bitmap[byte] as number; bits !== 0; bits &= bits - 1)
          this.#pending.add(first + byte * 8 + (31 - Math.clz32(bits & -bits)));
    }
  }

  /** Sends runs of pending pages of one kind, zero or not, within one region of RAM. */
  async #runs(compare: boolean): Promise<void> {
    for (let page = 0; page < this.#ram.pages; ) {
      if (!this.#pending.has(page)) {
        page++;
        continue;
      }
      const gpa = this.#ram.gpaOfPage(page);
      const zero = this.#ram.isZero(gpa, PAGE_SIZE);
      const pages = this.#runAt(page, gpa, zero);
      for (let i = 0; i < pages; i++) this.#pending.delete(page + i);
      const bytes = pages * PAGE_SIZE;
      if (!zero) await this.#sendRun(gpa, bytes, compare);
      else if (!this.#first) await this.#socket.send('zeroPages', { gpa, bytes, compare });
      if (!compare) this.bytesSent += bytes;
      page += pages;
      // Sending resolves at once while the socket takes more: the coordinator's other work has its turn here.
      await yieldTurn();
    }
  }

  /**
   * Pending pages from `page` on that are zero like it, or like it are not. A page that changes after this look is
   * marked, and comes again.
   */
  #runAt(page: number, gpa: Gpa, zero: boolean): number {
    let pages = 1;
    const limit = (zero ? ZERO_FRAME_BYTES : RAM_FRAME_BYTES) / PAGE_SIZE;
    while (pages < limit && page + pages < this.#ram.pages && this.#pending.has(page + pages)) {
      const next = this.#ram.gpaOfPage(page + pages);
      // Regions end at the MMIO hole.
      if (next !== gpa + pages * PAGE_SIZE || this.#ram.isZero(next, PAGE_SIZE) !== zero) break;
      pages++;
    }
    return pages;
  }

  async #sendRun(gpa: Gpa, bytes: number, compare: boolean): Promise<void> {
    this.#ram.readInto(this.#buffer, 0, gpa, bytes);
    await this.#socket.send('ramPages', { gpa, data: this.#buffer.subarray(0, bytes), compare });
  }
}
