/**
 * Copies guest RAM to another host while the VM runs, and tracks the pages that are still to be sent.
 *
 * Two logs report dirty pages. The RAM log covers writes by the guest and the vIOMMU (memory/ram-log.ts). Each device's
 * container covers pages that the device writes or holds pinned (VFIO_IOMMU_DIRTY_PAGES). No change is lost:
 * 1. A harvest clears a page's mark before the page is copied.
 * 2. A writer sets the mark after it has written the bytes.
 * 3. So a page that changes while it is copied is marked again, and sent again.
 */
import { yieldTurn } from '#host';
import type { FrameSocket } from '../../../channel/frame-socket.ts';
import { type Gpa, offsetBy, PAGE_SIZE, toIova } from '../../../memory/address.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { DirtyTracker } from '../../../vfio/dirty-tracker.ts';

/** Maximum bytes of RAM in one frame: about what a socket delivers at once, so that the receiver need not join pieces. */
const RAM_FRAME_BYTES: number = 15 * PAGE_SIZE;
/** Maximum bytes of zeros that one frame stands for. Bounds the search for zeros, which delays other work. */
const ZERO_FRAME_BYTES: number = 2 ** 20;
/** Bytes of RAM that a harvest checks before the coordinator serves other work. */
const HARVEST_BYTES: number = 16 * 2 ** 20;

/** A set of pages, by index in RAM. */
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
  /** Bytes of pages sent, including zero pages. */
  bytesSent = 0;
  readonly #ram: GuestRam;
  readonly #trackers: readonly DirtyTracker[];
  readonly #socket: FrameSocket;
  readonly #pending: PageSet;
  readonly #buffer = new Uint8Array(RAM_FRAME_BYTES);
  /** True until everything was sent once. The target's RAM starts as zeros, so zero pages need not be sent. */
  #first = true;

  /** `ram` must have a log attached in every thread that writes it. {@link start} starts the trackers. */
  constructor(ram: GuestRam, trackers: readonly DirtyTracker[], socket: FrameSocket) {
    this.#ram = ram;
    this.#trackers = trackers;
    this.#socket = socket;
    this.#pending = new PageSet(ram.pages);
  }

  /** Starts tracking the devices' writes and marks all pages to be sent. */
  async start(): Promise<void> {
    await Promise.all(this.#trackers.map((tracker) => tracker.start()));
    for (let page = 0; page < this.#ram.pages; page++) this.#pending.add(page);
  }

  stop(): void {
    for (const tracker of this.#trackers) tracker.stop();
    this.#ram.stopLog();
  }

  /** Bytes of RAM that are still to be sent, as of the last harvest. */
  get pendingBytes(): number {
    return this.#pending.size * PAGE_SIZE;
  }

  /** Adds the pages that have become dirty since the last harvest. */
  async harvest(): Promise<void> {
    this.#ram.log?.harvest((page) => this.#pending.add(page));
    for (const { gpa, size } of this.#ram.regions)
      for (let at = 0; at < size; at += HARVEST_BYTES) {
        this.#harvestDevices(offsetBy(gpa, at), Math.min(HARVEST_BYTES, size - at));
        await yieldTurn();
      }
  }

  /** Sends all pending pages. Pages that become dirty meanwhile are left to the next harvest. */
  async send(): Promise<void> {
    await this.#sendRuns(false);
    this.#first = false;
  }

  /** Sends all of RAM for comparison. The VM must not run. */
  async sendForComparison(): Promise<void> {
    for (let page = 0; page < this.#ram.pages; page++) this.#pending.add(page);
    this.#first = false;
    await this.#sendRuns(true);
  }

  #harvestDevices(gpa: Gpa, size: number): void {
    const first = this.#ram.pageIndex(gpa);
    for (const tracker of this.#trackers) {
      // The tracker takes a GPA here, whatever the devices' IOVAs are.
      const bitmap = tracker.memory(toIova(gpa), size);
      for (let byte = 0; byte < bitmap.length; byte++)
        for (let bits = bitmap[byte] as number; bits !== 0; bits &= bits - 1)
          this.#pending.add(first + byte * 8 + (31 - Math.clz32(bits & -bits)));
    }
  }

  /** Sends all pending pages, in runs of one kind (zero or not) within one region of RAM. */
  async #sendRuns(compare: boolean): Promise<void> {
    for (let page = 0; page < this.#ram.pages; ) {
      if (!this.#pending.has(page)) {
        page++;
        continue;
      }
      const gpa = this.#ram.gpaOfPage(page);
      const zero = this.#ram.isZero(gpa, PAGE_SIZE);
      const pages = this.#runLength(page, gpa, zero);
      for (let i = 0; i < pages; i++) this.#pending.delete(page + i);
      const bytes = pages * PAGE_SIZE;
      if (!zero) await this.#sendRun(gpa, bytes, compare);
      else if (!this.#first) await this.#socket.send('zeroPages', { gpa, bytes, compare });
      if (!compare) this.bytesSent += bytes;
      page += pages;
      // Sending resolves at once while the socket accepts more, so the coordinator's other work gets its turn here.
      await yieldTurn();
    }
  }

  /**
   * Returns the length of the run of pending pages from `page` on that are all zero, or all not. A page that changes
   * after this check is marked and sent again.
   */
  #runLength(page: number, gpa: Gpa, zero: boolean): number {
    let pages = 1;
    const limit = (zero ? ZERO_FRAME_BYTES : RAM_FRAME_BYTES) / PAGE_SIZE;
    while (pages < limit && page + pages < this.#ram.pages && this.#pending.has(page + pages)) {
      const next = this.#ram.gpaOfPage(page + pages);
      // A run ends at the MMIO hole.
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
