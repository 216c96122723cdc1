/**
 * Driver side of a split virtqueue (virtio 1.3 section 2.7). One page of guest RAM holds the descriptor table and
 * both rings.
 */
import { nowUs } from '#host';
import * as virtio from '../../../abi/virtio.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';

/** Count of entries of a queue that fits one page. */
export const RING_ENTRIES = 128;
const AVAIL_OFFSET = virtio.DESCRIPTOR_BYTES * RING_ENTRIES;
const USED_OFFSET = AVAIL_OFFSET + 512;

/** A chain that the device has used. */
interface UsedEntry {
  /** First descriptor of the chain. */
  readonly head: number;
  /** Bytes that the device has written. */
  readonly length: number;
}

/** State of a queue's driver beside the page. */
export interface VirtioQueueState {
  /** GPA. */
  readonly page: number;
  /** Ring indices, modulo 2^16: count of offered chains and of consumed used entries. */
  readonly offered: number;
  readonly taken: number;
}

/** A split virtqueue of RING_ENTRIES entries. */
export class VirtioQueue {
  readonly #port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #index: number;
  readonly #page: number;
  #offered: number;
  #taken: number;

  /**
   * Allocates one page.
   * @param saved state of an installed queue; then no page is allocated
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    index: number,
    saved?: VirtioQueueState,
  ) {
    this.#port = port;
    this.#ram = ram;
    this.#index = index;
    this.#page = saved?.page ?? pages.allocate();
    this.#offered = saved?.offered ?? 0;
    this.#taken = saved?.taken ?? 0;
  }

  save(): VirtioQueueState {
    return { page: this.#page, offered: this.#offered, taken: this.#taken };
  }

  /** Empties the queue and configures it in the device (4.2.3.2). */
  async install(): Promise<void> {
    this.#ram.write(this.#page, new Uint8Array(USED_OFFSET + virtio.usedBytes(RING_ENTRIES)));
    this.#offered = 0;
    this.#taken = 0;
    const write = (register: number, value: number) => this.#port.write(register, 4, BigInt(value));
    await write(virtio.QUEUE_SEL_REG, this.#index);
    await write(virtio.QUEUE_SIZE_REG, RING_ENTRIES);
    for (const [low, high, offset] of [
      [virtio.QUEUE_DESC_LOW_REG, virtio.QUEUE_DESC_HIGH_REG, 0],
      [virtio.QUEUE_DRIVER_LOW_REG, virtio.QUEUE_DRIVER_HIGH_REG, AVAIL_OFFSET],
      [virtio.QUEUE_DEVICE_LOW_REG, virtio.QUEUE_DEVICE_HIGH_REG, USED_OFFSET],
    ] as const) {
      await write(low, (this.#page + offset) % 2 ** 32);
      await write(high, Math.floor((this.#page + offset) / 2 ** 32));
    }
    await write(virtio.QUEUE_READY_REG, 1);
  }

  /** Writes descriptor `index`; with `next` the chain continues there. */
  describe(index: number, gpa: number, length: number, writable: boolean, next?: number): void {
    const at = this.#page + virtio.DESCRIPTOR_BYTES * index;
    const flags = (writable ? virtio.DESC_F_WRITE : 0) | (next === undefined ? 0 : virtio.DESC_F_NEXT);
    this.#ram.write32(at, gpa % 2 ** 32);
    this.#ram.write32(at + 4, Math.floor(gpa / 2 ** 32));
    this.#ram.write32(at + 8, length);
    this.#ram.write32(at + 12, (((next ?? 0) << 16) | flags) >>> 0);
  }

  /** Makes the chain that begins at `head` available. The device reads it after the next {@link kick}. */
  offer(head: number): void {
    const avail = this.#page + AVAIL_OFFSET;
    const slot = virtio.RING_HEADER_BYTES + virtio.AVAIL_ENTRY_BYTES * (this.#offered % RING_ENTRIES);
    this.#ram.write(avail + slot, Uint8Array.of(head & 0xff, head >>> 8));
    this.#offered = (this.#offered + 1) & 0xffff;
    this.#ram.publish32(avail, (this.#offered << 16) >>> 0);
  }

  /** Notifies the device. */
  kick(): void | Promise<void> {
    return this.#port.write(virtio.QUEUE_NOTIFY_REG, 4, BigInt(this.#index));
  }

  /** Consumes the next used chain; undefined if there is no used chain. */
  take(): UsedEntry | undefined {
    const used = this.#page + USED_OFFSET;
    if (this.#ram.load32(used) >>> 16 === this.#taken) return undefined;
    const entry = used + virtio.RING_HEADER_BYTES + virtio.USED_ENTRY_BYTES * (this.#taken % RING_ENTRIES);
    this.#taken = (this.#taken + 1) & 0xffff;
    return { head: this.#ram.read32(entry), length: this.#ram.read32(entry + 4) };
  }

  /** Waits until `done`, which consumes used chains, returns true. Resolves to false at `deadlineUs`. */
  async until(done: () => boolean, deadlineUs: number): Promise<boolean> {
    const used = this.#page + USED_OFFSET;
    for (;;) {
      // Read before `done` consumes: a change in between ends the wait at once.
      const seen = this.#ram.load32(used);
      if (done()) return true;
      const leftMs = Math.ceil((deadlineUs - nowUs()) / 1000);
      if (leftMs <= 0) return false;
      await this.#ram.waitWhile32(used, seen, leftMs);
    }
  }
}
