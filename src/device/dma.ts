/**
 * A device model's access to memory: short DMA in sections, and long pins. Neither sends a message (R9).
 *
 * A mapping may also lead to a BAR of another device. Short DMA reaches it; like vfio_pin_pages, a pin does not, because
 * there is no page of memory to hold. The other device serves the access within the section, so that no unmap completes
 * before (R6).
 */
import type { PeerOutcome } from '../channel/peer-block.ts';
import {
  type Hpa,
  hex,
  type Iova,
  PAGE_1G,
  PAGE_SHIFT,
  PAGE_SIZE,
  PERM_READ,
  PERM_RW,
  PERM_WRITE,
} from '../memory/address.ts';
import { RAM_PFN_FIRST } from '../memory/bus-memory.ts';
import type { HostMemory } from '../memory/host-memory.ts';
import { ROOT_ENTRIES } from '../pin-table/layout.ts';
import { framePerm, framePfn, PIN_DENIED, type PinTableReader } from '../pin-table/reader.ts';
import { HeldPages } from './held-pages.ts';

/** The access was done. */
export const DMA_OK = 0;
/** There is no mapping or no permission. The fault was reported to the vIOMMU. */
export const DMA_FAULT = 1;
/**
 * The address space is being switched, or the other device whose BAR is accessed is not ready. Nothing was recorded; try
 * again later.
 */
export const DMA_RETRY = 2;
/** Result of a DMA access. */
export type DmaStatus = typeof DMA_OK | typeof DMA_FAULT | typeof DMA_RETRY;

/** Most pages of one section. Unmap waits for sections, so they are short. */
const SECTION_PAGES = 16;

/** Result of a section that met a device which is not ready. */
const BUSY = -2;

/** The BARs of other devices. */
export interface DmaPeers {
  /** Writes or reads at most a page of a BAR at a bus address. */
  access(isWrite: boolean, address: number, bytes: Uint8Array): PeerOutcome;
}

/** Receiver of faults and of broken contracts. */
interface DmaObserver {
  fault(iova: Iova, write: boolean, denied: boolean): void;
  violation(kind: string, detail: string): void;
}

interface DmaCounters {
  pins: number;
  unpins: number;
  faults: number;
}

/**
 * One device's DMA. Long-pinned pages are accessed by HPA. A ledger of the device's pins detects a model that uses an
 * HPA which it no longer holds. That access is still done, so that the bytes show what a real device would destroy.
 */
export class DeviceDma {
  readonly counters: DmaCounters = { pins: 0, unpins: 0, faults: 0 };
  readonly #table: PinTableReader;
  readonly #memory: HostMemory;
  readonly #observer: DmaObserver;
  readonly #mastersBus: () => boolean;
  readonly #peers: DmaPeers | undefined;
  readonly #held: HeldPages;
  /** IOVA page number → count of pins, and host PFN. */
  readonly #pinned = new Map<number, { count: number; readonly pfn: number }>();
  readonly #scratch = new Uint8Array(8);
  readonly #scratchView = new DataView(this.#scratch.buffer);
  readonly #word = this.#scratch.subarray(0, 4);

  /**
   * `mastersBus` returns true while the guest lets the device send requests (Bus Master Enable). `peers` are the other
   * devices of the VM.
   */
  constructor(
    table: PinTableReader,
    memory: HostMemory,
    observer: DmaObserver,
    mastersBus: () => boolean = () => true,
    peers?: DmaPeers,
  ) {
    this.#table = table;
    this.#mastersBus = mastersBus;
    this.#peers = peers;
    this.#memory = memory;
    this.#held = new HeldPages(memory);
    this.#observer = observer;
  }

  /** Count of pages with a pin. */
  get pinnedPages(): number {
    return this.#held.pages;
  }

  /** Count of pins held, over all pages. */
  get heldPins(): number {
    return this.#held.pins;
  }

  /** Reads guest memory at `iova` into `target`. On DMA_FAULT the pages before the fault have been read. */
  read(iova: Iova, target: Uint8Array): DmaStatus {
    return this.#transfer(iova, target, PERM_READ);
  }

  /** Writes `source` to guest memory. On DMA_FAULT the pages before the fault have been written. */
  write(iova: Iova, source: Uint8Array): DmaStatus {
    return this.#transfer(iova, source, PERM_WRITE);
  }

  /**
   * Translates one byte at `iova`, like a translation request of PCIe ATS. Returns its HPA, -DMA_FAULT or -DMA_RETRY.
   * Records nothing. The HPA is valid only during the call: only {@link pin} keeps a page.
   */
  translate(iova: Iova, perm: number): number {
    if (this.#refuses(iova, perm, 'translates') || !this.#mastersBus()) return -DMA_FAULT;
    const before = this.#table.switchSequence;
    this.#table.enter();
    const leaf = this.#table.lookup(iova);
    this.#table.exit();
    if ((framePerm(leaf) & perm) === perm) return framePfn(leaf) * PAGE_SIZE + (iova % PAGE_SIZE);
    return this.#switched(before) ? -DMA_RETRY : -DMA_FAULT;
  }

  /** Returns true if the page at `iova` lies in a BAR of another device, which only short DMA reaches. */
  isPeer(iova: Iova): boolean {
    if (this.#peers === undefined) return false;
    this.#table.enter();
    const leaf = this.#table.lookup(iova);
    this.#table.exit();
    return leaf !== 0 && framePfn(leaf) < RAM_PFN_FIRST;
  }

  /** Writes 64 bits, little-endian and naturally aligned, such as half of a completion record. */
  write64(iova: Iova, low: number, high: number): DmaStatus {
    this.#scratchView.setUint32(0, low, true);
    this.#scratchView.setUint32(4, high, true);
    return this.write(iova, this.#scratch);
  }

  /**
   * Reads an aligned 32-bit word at once: a word that the guest writes meanwhile is old or new. Returns the word,
   * -DMA_FAULT or -DMA_RETRY.
   */
  load32(iova: Iova): number {
    let value = -1;
    const isRam = this.#atWord(iova, PERM_READ, (hpa) => {
      value = this.#memory.load32(hpa);
    });
    if (isRam) return value;
    const status = this.read(iova, this.#word);
    return status === DMA_OK ? this.#scratchView.getUint32(0, true) : -status;
  }

  /** Stores an aligned 32-bit word at once, after everything that was written before. */
  store32(iova: Iova, value: number): DmaStatus {
    if (this.#atWord(iova, PERM_WRITE, (hpa) => this.#memory.store32(hpa, value))) return DMA_OK;
    this.#scratchView.setUint32(0, value, true);
    return this.write(iova, this.#word);
  }

  /**
   * Pins the page at `iova` for `perm` until {@link unpin}. Returns its host PFN, or -DMA_FAULT or -DMA_RETRY. A page
   * may be pinned more than once.
   */
  pin(iova: Iova, perm: number): number {
    if (this.#refuses(iova, perm, 'pins')) return -DMA_FAULT;
    let pfn = this.#pinRam(iova, perm);
    if (pfn < 0) {
      const before = this.#table.switchSequence;
      pfn = this.#pinRam(iova, perm);
      if (pfn < 0) {
        if (this.#switched(before)) return -DMA_RETRY;
        return -this.#fault(iova, (perm & PERM_WRITE) !== 0, pfn === PIN_DENIED);
      }
    }
    this.#hold(Math.floor(iova / PAGE_SIZE), pfn);
    return pfn;
  }

  /**
   * Pins `frames.length` pages from `iova` on for `perm`, all or none, and stores their host PFNs, like
   * vfio_pin_pages. Each page is unpinned by {@link unpin}.
   */
  pinPages(iova: Iova, perm: number, frames: Int32Array): DmaStatus {
    if (this.#refuses(iova, perm, 'pins')) return DMA_FAULT;
    const first = Math.floor(iova / PAGE_SIZE);
    for (let done = 0; done < frames.length; ) {
      const at = (iova + done * PAGE_SIZE) as Iova;
      for (const end = done + this.#table.pinRun(at, frames.length - done, perm); done < end; done++) {
        const pfn = framePfn(this.#table.lookup((first + done) * PAGE_SIZE));
        if (pfn < RAM_PFN_FIRST) {
          this.#table.unpinRun((iova + done * PAGE_SIZE) as Iova, end - done);
          break;
        }
        this.#hold(first + done, pfn);
        frames[done] = pfn;
      }
      if (done === frames.length) break;
      // Retry the page that stopped the run alone: this gives the reason, or finds the page mapped meanwhile.
      const pfn = this.pin((iova + done * PAGE_SIZE) as Iova, perm);
      if (pfn < 0) {
        while (done > 0) this.unpin((iova + --done * PAGE_SIZE) as Iova);
        return pfn === -DMA_RETRY ? DMA_RETRY : DMA_FAULT;
      }
      frames[done++] = pfn;
    }
    return DMA_OK;
  }

  /** Drops one pin of the page at `iova`. Reports a violation if there is no pin. */
  unpin(iova: Iova): void {
    const page = Math.floor(iova / PAGE_SIZE);
    const record = this.#pinned.get(page);
    if (record && this.#held.count(record.pfn) <= 1) this.#table.noteReleased(record.pfn);
    if (!record || !this.#table.unpin(iova)) {
      this.#observer.violation('unbalanced-unpin', `unpins IOVA ${hex(iova)}, which it has not pinned`);
      return;
    }
    this.counters.unpins++;
    if (--record.count === 0) this.#pinned.delete(page);
    this.#held.remove(record.pfn);
  }

  /** Copies between pinned pages. A range may continue in the host page that follows, if that page is pinned, too. */
  copyPinned(target: Hpa, source: Hpa, length: number): void {
    this.#checkHeld(target, 'writes to', length);
    this.#checkHeld(source, 'reads from', length);
    if (this.#mastersBus()) this.#memory.copy(target, source, length);
  }

  /** Fills a range inside a pinned page with a 32-bit value. Address and length are multiples of 4. */
  fillPinned(target: Hpa, length: number, value: number): void {
    this.#checkHeld(target, 'writes to');
    if (this.#mastersBus()) this.#memory.fill32(target, length, value);
  }

  /** Reads a range inside a pinned page. While the guest keeps Bus Master Enable at 0, `target` is unchanged. */
  readPinned(source: Hpa, target: Uint8Array): void {
    this.#checkHeld(source, 'reads from');
    if (this.#mastersBus()) this.#memory.read(source, target);
  }

  /** Returns the CRC-32 of a range inside a pinned page, continued from `seed`. */
  crc32Pinned(source: Hpa, length: number, seed: number): number {
    this.#checkHeld(source, 'reads from');
    return this.#mastersBus() ? this.#memory.crc32(source, length, seed) : seed;
  }

  /** Pins a page of RAM. Returns its host PFN, PIN_UNMAPPED or PIN_DENIED. */
  #pinRam(iova: Iova, perm: number): number {
    const pfn = this.#table.pin(iova, perm);
    if (pfn < 0 || pfn >= RAM_PFN_FIRST) return pfn;
    this.#table.unpin(iova);
    return PIN_DENIED;
  }

  /** Uses a word of RAM in a section of its own. Returns false if the word is not RAM that `perm` allows. */
  #atWord(iova: Iova, perm: typeof PERM_READ | typeof PERM_WRITE, use: (hpa: Hpa) => void): boolean {
    if (!(Number.isSafeInteger(iova) && iova >= 0 && iova % 4 === 0) || !this.#mastersBus()) return false;
    this.#table.enter();
    try {
      const leaf = this.#table.lookup(iova);
      const isRam = (framePerm(leaf) & perm) === perm && framePfn(leaf) >= RAM_PFN_FIRST;
      if (!isRam) return false;
      use((framePfn(leaf) * PAGE_SIZE + (iova % PAGE_SIZE)) as Hpa);
      if (perm === PERM_WRITE && this.#table.logsWrites) this.#table.markWritten(framePfn(leaf));
      return true;
    } finally {
      this.#table.exit();
    }
  }

  /** Records a pin in the ledgers. */
  #hold(page: number, pfn: number): void {
    this.counters.pins++;
    if (this.#held.count(pfn) === 0) this.#table.noteHeld(pfn);
    this.#held.add(pfn);
    const record = this.#pinned.get(page);
    if (record) record.count++;
    else this.#pinned.set(page, { count: 1, pfn });
  }

  #transfer(iova: Iova, bytes: Uint8Array, perm: typeof PERM_READ | typeof PERM_WRITE): DmaStatus {
    if (this.#refuses(iova, perm, perm === PERM_WRITE ? 'writes' : 'reads') || !this.#mastersBus())
      return DMA_FAULT;
    for (let at = 0; at < bytes.length; ) {
      const moved = this.#section(iova, at, bytes, perm);
      if (moved > 0) {
        at += moved;
        continue;
      }
      if (moved === BUSY) return DMA_RETRY;
      const before = this.#table.switchSequence;
      const again = this.#section(iova, at, bytes, perm);
      if (again > 0) at += again;
      else if (again === BUSY || this.#switched(before)) return DMA_RETRY;
      else return this.#fault((iova + at) as Iova, perm === PERM_WRITE, again < 0);
    }
    return DMA_OK;
  }

  /**
   * Moves at most SECTION_PAGES pages in one section, or one piece of a BAR. Returns the bytes moved; 0 if nothing is
   * mapped first or no device answers, -1 if it is denied, BUSY if a device is not ready.
   */
  #section(iova: Iova, from: number, bytes: Uint8Array, perm: number): number {
    const { length } = bytes;
    let at = from;
    let refusal = 0;
    // The address is split once and then advanced page by page: see lookupAt.
    let gib = Math.floor((iova + from) / PAGE_1G);
    let low = iova + from - gib * PAGE_1G;
    this.#table.enter();
    try {
      const logged = perm === PERM_WRITE && this.#table.logsWrites;
      for (let pages = 0; at < length && pages < SECTION_PAGES; pages++) {
        const inPage = low % PAGE_SIZE;
        const leaf = gib < ROOT_ENTRIES ? this.#table.lookupAt(gib, low) : this.#table.lookup(iova + at);
        if ((framePerm(leaf) & perm) !== perm) {
          refusal = leaf === 0 ? 0 : -1;
          break;
        }
        const piece = Math.min(PAGE_SIZE - inPage, length - at);
        const hpa = (framePfn(leaf) * PAGE_SIZE + inPage) as Hpa;
        if (framePfn(leaf) < RAM_PFN_FIRST) {
          // A section of its own, so that all bytes before it count as moved.
          if (at === from) refusal = this.#movePeer(hpa, bytes.subarray(at, at + piece), perm);
          break;
        }
        if (perm === PERM_WRITE) this.#memory.write(hpa, bytes, at, piece);
        else this.#memory.read(hpa, bytes, at, piece);
        if (logged) this.#table.markWritten(framePfn(leaf));
        at += piece;
        low += piece;
        if (low === PAGE_1G) [gib, low] = [gib + 1, 0];
      }
    } finally {
      this.#table.exit();
    }
    return at > from ? at - from : refusal;
  }

  /** Moves a piece of another device's BAR. Returns as {@link #section} does. */
  #movePeer(address: number, bytes: Uint8Array, perm: number): number {
    const outcome = this.#peers?.access(perm === PERM_WRITE, address, bytes) ?? 'refused';
    if (outcome === 'busy') return BUSY;
    return outcome === 'done' ? bytes.length : 0;
  }

  /**
   * Returns true for an access that cannot reach the bus. A guest may program an address that is too large, so that
   * is a fault. A value that is not an address, or not a permission, is a violation by the model.
   */
  #refuses(iova: Iova, perm: number, does: string): boolean {
    const isPerm = perm === PERM_READ || perm === PERM_WRITE || perm === PERM_RW;
    if (Number.isSafeInteger(iova) && iova >= 0 && isPerm) return false;
    if (isPerm && iova > Number.MAX_SAFE_INTEGER)
      this.#fault(Number.MAX_SAFE_INTEGER as Iova, (perm & PERM_WRITE) !== 0, false);
    else
      this.#observer.violation(
        'bad-dma',
        `${does} IOVA ${iova} with permission ${perm}; accepted: integers from 0 to 2^53 - 1, 1 to 3`,
      );
    return true;
  }

  /**
   * Returns true if a switch may have hidden the mapping: one was running, or one has run, during the second lookup.
   */
  #switched(before: number): boolean {
    return (before & 1) !== 0 || this.#table.switchSequence !== before;
  }

  #fault(iova: Iova, write: boolean, denied: boolean): typeof DMA_FAULT {
    this.counters.faults++;
    this.#observer.fault(iova, write, denied);
    return DMA_FAULT;
  }

  #checkHeld(address: Hpa, does: string, length = 1): void {
    const last = Math.floor((address + length - 1) / 2 ** PAGE_SHIFT);
    for (let pfn = Math.floor(address / 2 ** PAGE_SHIFT); pfn <= last; pfn++)
      if (this.#held.count(pfn) <= 0) {
        const at = hex(Math.max(address, pfn * PAGE_SIZE));
        this.#observer.violation('use-after-unpin', `${does} HPA ${at}, on which it holds no pin`);
      }
  }
}
