/**
 * Machine on which virtio-iommu vectors were recorded, with its driver: RAM, unit, both queues, DMA masters.
 */
import * as virtio from '../../abi/virtio.ts';
import * as format from '../../abi/virtio-iommu.ts';
import { FOUR_GIB, PAGE_SIZE } from '../../memory/address.ts';
import { DeviceAddressSpace } from '../../viommu/address-space.ts';
import type { MapNotifier } from '../../viommu/notifier.ts';
import type { Quirks } from '../../viommu/quirks.ts';
import { VirtioIommu } from '../../viommu/virtio/iommu.ts';
import type { VectorRam } from '../vector-ram.ts';

// Addresses of the driver's structures, in RAM that vectors do not use.
const REQUEST_RINGS = 0x7e000000;
const EVENT_RINGS = 0x7e010000;
const INDIRECT_TABLE = 0x7e020000;
const BUFFERS = 0x7e100000;
const EVENT_BUFFERS = 0x7e800000;
const RING_ENTRIES = 256;
const AVAIL_OFFSET = 0x2000;
const USED_OFFSET = 0x4000;
/** Maximum buffer bytes of one request. */
const BUFFERS_LIMIT = 0x100000;
/** Initial byte of device-writable buffers. */
const PREFILL = 0xcc;
/** Platform functions of a q35 machine that are endpoints too: 00:00.0, 00:03.0, 00:1f.0, 00:1f.2, 00:1f.3. */
const PLATFORM = [0x00, 0x18, 0xf8, 0xfa, 0xfb];
const DEFAULT_FEATURES = 0x100000077n;
export const DEFAULT_EVENT_BUFFERS = 64;

/** Accepts every map event: vectors compare only translations. */
const NO_CONTAINER: MapNotifier = {
  map: () => 'mapped',
  unmap: () => undefined,
  unmapAll: () => undefined,
  has: () => true,
  mappingAt: () => undefined,
  forEachMapping: () => {},
  switchBegin: () => {},
  switchEnd: () => {},
};

export interface MachineSettings {
  readonly granule: number;
  readonly awBits: number;
  readonly bootBypass: boolean;
  readonly quirks: Quirks;
  /** Requester IDs of the DMA masters. */
  readonly devices: readonly number[];
}

export interface InitSettings {
  readonly features?: bigint;
  /** Device status after the last step; default all bits. */
  readonly upto?: number;
  readonly eventBuffers?: number;
  readonly eventBytes?: number;
}

export interface RawDescriptor {
  readonly data?: Uint8Array;
  /** Bytes of a buffer without data. */
  readonly length?: number;
  readonly writable?: boolean;
  readonly next?: number;
  readonly gpa?: number;
}

export interface RawOptions {
  readonly indirect?: boolean;
  readonly head?: number;
  readonly availSkip?: number;
}

/** Result of a chain. */
export interface RawAnswer {
  readonly completed: boolean;
  readonly usedLength: number;
  /** All device-writable bytes in order, PREFILL where nothing was written. */
  readonly written: Uint8Array;
}

export interface RecordedEvent {
  readonly reason: number;
  readonly flags: number;
  readonly endpoint: number;
  readonly address: bigint;
}

interface Ring {
  readonly at: number;
  avail: number;
  used: number;
}

export class VirtioMachine {
  readonly ram: VectorRam;
  readonly iommu: VirtioIommu;
  readonly #settings: MachineSettings;
  readonly #requests: Ring = { at: REQUEST_RINGS, avail: 0, used: 0 };
  readonly #events: Ring = { at: EVENT_RINGS, avail: 0, used: 0 };
  #freeEventBuffers: number[] = [];

  /** @throws RangeError for an invalid granule or address width */
  constructor(ram: VectorRam, settings: MachineSettings) {
    this.ram = ram;
    this.#settings = settings;
    const { quirks, granule, awBits, bootBypass, devices } = settings;
    this.iommu = new VirtioIommu({ ram, quirks, granule, awBits, bootBypass, functions: PLATFORM });
    for (const id of devices) this.iommu.attach(new DeviceAddressSpace(id, NO_CONTAINER, ram.regions));
  }

  read(register: number, size = 4): bigint {
    return this.iommu.readRegister(register, size);
  }

  write(register: number, value: bigint | number, size = 4): void {
    this.iommu.writeRegister(register, size, BigInt(value));
  }

  /** Resets and initialises the device (3.1.1). Returns true if it accepted the features. */
  init(settings: InitSettings = {}): boolean {
    const { features = DEFAULT_FEATURES, upto = 0xf } = settings;
    this.write(virtio.STATUS_REG, 0);
    this.write(virtio.STATUS_REG, virtio.STATUS_ACKNOWLEDGE);
    this.write(virtio.STATUS_REG, virtio.STATUS_ACKNOWLEDGE | virtio.STATUS_DRIVER);
    for (const half of [0, 1]) {
      this.write(virtio.DRIVER_FEATURES_SEL_REG, half);
      this.write(virtio.DRIVER_FEATURES_REG, (features >> BigInt(32 * half)) & 0xffffffffn);
    }
    const status = virtio.STATUS_ACKNOWLEDGE | virtio.STATUS_DRIVER | virtio.STATUS_FEATURES_OK;
    this.write(virtio.STATUS_REG, status);
    const accepted = (Number(this.read(virtio.STATUS_REG)) & virtio.STATUS_FEATURES_OK) !== 0;
    this.#setUp(format.REQUEST_QUEUE, this.#requests);
    this.#setUp(format.EVENT_QUEUE, this.#events);
    if ((upto & virtio.STATUS_DRIVER_OK) !== 0) this.write(virtio.STATUS_REG, upto);
    this.#freeEventBuffers = Array.from({ length: RING_ENTRIES }, (_, i) => RING_ENTRIES - 1 - i);
    this.postEventBuffers(settings.eventBuffers ?? DEFAULT_EVENT_BUFFERS, settings.eventBytes);
    return accepted;
  }

  #setUp(queue: number, ring: Ring): void {
    this.ram.write(ring.at, new Uint8Array(USED_OFFSET + virtio.usedBytes(RING_ENTRIES)));
    ring.avail = 0;
    ring.used = 0;
    this.write(virtio.QUEUE_SEL_REG, queue);
    this.write(virtio.QUEUE_SIZE_REG, RING_ENTRIES);
    this.write(virtio.QUEUE_DESC_LOW_REG, ring.at);
    this.write(virtio.QUEUE_DRIVER_LOW_REG, ring.at + AVAIL_OFFSET);
    this.write(virtio.QUEUE_DEVICE_LOW_REG, ring.at + USED_OFFSET);
    this.write(virtio.QUEUE_READY_REG, 1);
  }

  postEventBuffers(count: number, bytes: number = format.EVENT_BYTES): void {
    for (let left = count; left > 0; left--) {
      const i = this.#freeEventBuffers.pop();
      if (i === undefined) return;
      this.#descriptor(EVENT_RINGS, i, EVENT_BUFFERS + i * PAGE_SIZE, bytes, virtio.DESC_F_WRITE, 0);
      this.#offer(this.#events, i);
    }
    this.write(virtio.QUEUE_NOTIFY_REG, format.EVENT_QUEUE);
  }

  /** Removes and returns the events that the device has reported. `recycle` posts their buffers again. */
  takeEvents(recycle: boolean): RecordedEvent[] {
    const events: RecordedEvent[] = [];
    for (let entry = this.#used(this.#events); entry; entry = this.#used(this.#events)) {
      const bytes = this.ram.read(EVENT_BUFFERS + entry.head * PAGE_SIZE, format.EVENT_BYTES);
      const view = new DataView(bytes.buffer);
      events.push({
        reason: view.getUint8(0),
        flags: view.getUint32(4, true),
        endpoint: view.getUint32(8, true),
        address: view.getBigUint64(16, true),
      });
      this.#freeEventBuffers.push(entry.head);
      if (recycle) this.postEventBuffers(1);
    }
    return events;
  }

  /** Puts one chain into the request queue, notifies the device and returns the answer. */
  request(descriptors: readonly RawDescriptor[], options: RawOptions = {}): RawAnswer {
    const table = options.indirect ? INDIRECT_TABLE : REQUEST_RINGS;
    const places: { gpa: number; length: number; writable: boolean }[] = [];
    let buffer = BUFFERS;
    for (const [i, given] of descriptors.entries()) {
      const length = given.data?.length ?? given.length ?? 0;
      const gpa = given.gpa ?? buffer;
      if (given.gpa === undefined) buffer += Math.min(length, BUFFERS_LIMIT) + 16;
      const writable = given.writable ?? false;
      const content =
        given.data ?? new Uint8Array(Math.min(length, BUFFERS_LIMIT)).fill(writable ? PREFILL : 0);
      if (this.ram.contains(gpa, content.length)) this.ram.write(gpa, content);
      const next = given.next ?? (i + 1 < descriptors.length ? i + 1 : undefined);
      const flags = (writable ? virtio.DESC_F_WRITE : 0) | (next === undefined ? 0 : virtio.DESC_F_NEXT);
      this.#descriptor(table, i, gpa, length, flags, next ?? 0);
      places.push({ gpa, length, writable });
    }
    if (options.indirect)
      this.#descriptor(REQUEST_RINGS, 0, table, 16 * descriptors.length, virtio.DESC_F_INDIRECT, 0);
    this.#offer(this.#requests, options.head ?? 0, options.availSkip ?? 0);
    this.write(virtio.QUEUE_NOTIFY_REG, format.REQUEST_QUEUE);
    return this.#collect(places);
  }

  #collect(places: readonly { gpa: number; length: number; writable: boolean }[]): RawAnswer {
    const first = this.#used(this.#requests);
    while (this.#used(this.#requests));
    const writable = places.filter((place) => place.writable && this.ram.contains(place.gpa, place.length));
    const written = writable.map(({ gpa, length }) => this.ram.read(gpa, Math.min(length, BUFFERS_LIMIT)));
    return {
      completed: first !== undefined,
      usedLength: first?.length ?? 0,
      written: new Uint8Array(Buffer.concat(written)),
    };
  }

  systemReset(settings: InitSettings): void {
    this.iommu.systemReset();
    this.init(settings);
  }

  /**
   * Performs one DMA, split as on the recorded machine. Read data goes into `bytes`.
   * @returns 1 for each blocked byte
   */
  dma(endpoint: number, iova: bigint, bytes: Uint8Array, write: boolean): Uint8Array {
    const blocked = new Uint8Array(bytes.length);
    const granule = BigInt(this.#settings.granule);
    for (let at = 0; at < bytes.length; ) {
      const address = BigInt.asUintN(64, iova + BigInt(at));
      const answer = this.iommu.translateWide(endpoint, address, write);
      const left = bytes.length - at;
      const inPage = Math.min(left, Number(granule - (address % granule)));
      const length = answer.ok ? inPage : unassignedAccess(address, inPage);
      if (answer.ok) this.#copy(answer.gpa, bytes.subarray(at, at + length), write);
      else blocked.fill(1, at, at + length);
      at += length;
    }
    return blocked;
  }

  #copy(gpa: bigint, bytes: Uint8Array, write: boolean): void {
    const at = Number(gpa);
    if (gpa > BigInt(4 * FOUR_GIB) || !this.ram.contains(at, bytes.length)) return;
    if (write) this.ram.write(at, bytes);
    else bytes.set(this.ram.read(at, bytes.length));
  }

  #descriptor(table: number, index: number, gpa: number, length: number, flags: number, next: number): void {
    const at = table + virtio.DESCRIPTOR_BYTES * index;
    this.ram.write32(at, gpa % 2 ** 32);
    this.ram.write32(at + 4, Math.floor(gpa / 2 ** 32));
    this.ram.write32(at + 8, length);
    this.ram.write32(at + 12, ((next << 16) | flags) >>> 0);
  }

  #offer(ring: Ring, head: number, skip = 0): void {
    const avail = ring.at + AVAIL_OFFSET;
    const slot = avail + virtio.RING_HEADER_BYTES + virtio.AVAIL_ENTRY_BYTES * (ring.avail % RING_ENTRIES);
    this.ram.write(slot, Uint8Array.of(head & 0xff, head >>> 8));
    ring.avail = (ring.avail + 1 + skip) & 0xffff;
    this.ram.publish32(avail, (ring.avail << 16) >>> 0);
  }

  #used(ring: Ring): { head: number; length: number } | undefined {
    const used = ring.at + USED_OFFSET;
    if (this.ram.load32(used) >>> 16 === ring.used) return undefined;
    const entry = used + virtio.RING_HEADER_BYTES + virtio.USED_ENTRY_BYTES * (ring.used % RING_ENTRIES);
    ring.used = (ring.used + 1) & 0xffff;
    return { head: this.ram.read32(entry), length: this.ram.read32(entry + 4) };
  }
}

/** Returns the bytes of one access to unassigned memory: a power of two, at most 4, naturally aligned. */
function unassignedAccess(address: bigint, left: number): number {
  let size = 4;
  while (size > left || address % BigInt(size) !== 0n) size /= 2;
  return size;
}
