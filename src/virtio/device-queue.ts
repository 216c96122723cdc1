/**
 * Device side of a split virtqueue in guest RAM (virtio 1.3 section 2.7).
 *
 * The guest writes the rings, so indices, addresses, lengths and links are checked. A chain visits at most as many
 * descriptors as its table holds. Garbage results in `broken`, never in an exception.
 */

import * as virtio from '../abi/virtio.ts';
import { Chain, type Segment } from './chain.ts';
import type { QueueMemory } from './queue-memory.ts';

/** Maximum descriptors of an indirect table. */
export const INDIRECT_ENTRIES_LIMIT = 1024;

/** Result for invalid rings or chains: the queue cannot be used before the next reset. */
export const BROKEN = 'broken';

export interface QueueAddresses {
  /** Entries, a power of two. */
  readonly size: number;
  /** GPAs of descriptor table, available ring and used ring. */
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
}

/** State of a ready queue between two chains, for migration. */
export interface QueueState {
  readonly at: QueueAddresses;
  readonly eventIdx: boolean;
  /** Index of the available ring: chains before it have been taken. */
  readonly seen: number;
  /** Index of the used ring: the count of returned chains, modulo 2^16. */
  readonly given: number;
}

interface Table {
  readonly gpa: number;
  readonly entries: number;
}

interface Gathered {
  readonly readable: Segment[];
  readonly writable: Segment[];
}

export class DeviceQueue {
  readonly #ram: QueueMemory;
  #at: QueueAddresses | undefined;
  #eventIdx = false;
  #seen = 0;
  #used = 0;

  constructor(ram: QueueMemory) {
    this.#ram = ram;
  }

  get ready(): boolean {
    return this.#at !== undefined;
  }

  /** Undefined unless the queue is ready. Does not include chains that are taken and not yet returned. */
  get state(): QueueState | undefined {
    return this.#at && { at: this.#at, eventIdx: this.#eventIdx, seen: this.#seen, given: this.#used };
  }

  /** Restores another queue's state; undefined for a queue that is not ready. */
  restore(state: QueueState | undefined): void {
    this.#at = state?.at;
    if (!state) return;
    this.#eventIdx = state.eventIdx;
    this.#seen = state.seen;
    this.#used = state.given;
  }

  /** Enables the queue at index 0 of both rings. Invalid addresses are detected when the queue is used. */
  enable(at: QueueAddresses, eventIdx: boolean): void {
    this.#at = at;
    this.#eventIdx = eventIdx;
    this.#seen = 0;
    this.#used = 0;
  }

  disable(): void {
    this.#at = undefined;
  }

  /**
   * Takes the next chain; undefined if there is no chain. If the available index jumped by more than the ring holds, one
   * ring's length of chains is taken, as in QEMU 11.1.3.
   */
  pop(): Chain | typeof BROKEN | undefined {
    const at = this.#at;
    if (!at) return undefined;
    if (!this.#usable(at)) return BROKEN;
    const index = this.#read16(at.avail + 2);
    const waiting = (index - this.#seen) & 0xffff;
    if (waiting === 0) return undefined;
    if (waiting > at.size) this.#seen = (index - at.size) & 0xffff;
    const slot = this.#seen & (at.size - 1);
    const head = this.#read16(at.avail + virtio.RING_HEADER_BYTES + virtio.AVAIL_ENTRY_BYTES * slot);
    const found = this.#gather(at, head);
    if (!found) return BROKEN;
    this.#seen = (this.#seen + 1) & 0xffff;
    if (this.#eventIdx) this.#write16(at.used + virtio.usedBytes(at.size) - 2, this.#seen);
    return new Chain(this.#ram, head, found.readable, found.writable);
  }

  /**
   * Returns a chain to the driver with `length` bytes written, and wakes waiters on the used ring's first word. Returns
   * true if the driver wants an interrupt for it.
   */
  push(head: number, length: number): boolean {
    const at = this.#at;
    if (!at || !this.#usable(at)) return false;
    const entry = at.used + virtio.RING_HEADER_BYTES + virtio.USED_ENTRY_BYTES * (this.#used & (at.size - 1));
    this.#ram.write32(entry, head);
    this.#ram.write32(entry + 4, length);
    this.#used = (this.#used + 1) & 0xffff;
    this.#ram.publish32(at.used, (this.#used << 16) >>> 0);
    if (!this.#eventIdx) return (this.#read16(at.avail) & virtio.AVAIL_F_NO_INTERRUPT) === 0;
    // 2.7.10: only for the entry that the driver has named.
    return this.#read16(at.avail + virtio.availBytes(at.size) - 2) === ((this.#used - 1) & 0xffff);
  }

  #usable({ size, desc, avail, used }: QueueAddresses): boolean {
    const ram = this.#ram;
    return (
      size > 0 &&
      size <= virtio.QUEUE_SIZE_LIMIT &&
      (size & (size - 1)) === 0 &&
      desc % 16 === 0 &&
      avail % 2 === 0 &&
      used % 4 === 0 &&
      ram.contains(desc, virtio.DESCRIPTOR_BYTES * size) &&
      ram.contains(avail, virtio.availBytes(size)) &&
      ram.contains(used, virtio.usedBytes(size))
    );
  }

  /** Returns undefined for a chain that loops, leaves its table, has an empty descriptor, or is written before read. */
  #gather(at: QueueAddresses, head: number): Gathered | undefined {
    const found: Gathered = { readable: [], writable: [] };
    const table = { gpa: at.desc, entries: at.size };
    return this.#follow(table, head, found, true) ? found : undefined;
  }

  #follow(table: Table, first: number, found: Gathered, indirectAllowed: boolean): boolean {
    let index = first;
    for (let left = table.entries; left > 0; left--) {
      if (index >= table.entries) return false;
      const { gpa, length, flags, next } = this.#descriptor(table, index);
      if (length === 0) return false;
      if ((flags & virtio.DESC_F_INDIRECT) !== 0) {
        // 2.7.5.3.1: not allowed inside an indirect table, and nothing may follow it.
        if (!indirectAllowed || (flags & virtio.DESC_F_NEXT) !== 0) return false;
        return this.#followIndirect({ gpa, length }, found);
      }
      const writable = (flags & virtio.DESC_F_WRITE) !== 0;
      if (!writable && found.writable.length > 0) return false;
      (writable ? found.writable : found.readable).push({ gpa, length });
      if ((flags & virtio.DESC_F_NEXT) === 0) return true;
      index = next;
    }
    return false;
  }

  #followIndirect({ gpa, length }: Segment, found: Gathered): boolean {
    const entries = length / virtio.DESCRIPTOR_BYTES;
    if (!Number.isInteger(entries) || entries > INDIRECT_ENTRIES_LIMIT) return false;
    if (gpa % 4 !== 0 || !this.#ram.contains(gpa, length)) return false;
    return this.#follow({ gpa, entries }, 0, found, false);
  }

  #descriptor(table: Table, index: number) {
    const at = table.gpa + virtio.DESCRIPTOR_BYTES * index;
    const word = (i: number) => this.#ram.read32(at + 4 * i);
    const last = word(3);
    return {
      gpa: word(1) * 2 ** 32 + word(0),
      length: word(2),
      flags: last & 0xffff,
      next: last >>> 16,
    };
  }

  #read16(gpa: number): number {
    const odd = gpa % 4;
    const word = this.#ram.load32(gpa - odd);
    return odd === 0 ? word & 0xffff : word >>> 16;
  }

  #write16(gpa: number, value: number): void {
    this.#ram.write(gpa, Uint8Array.of(value & 0xff, value >>> 8));
  }
}
