/**
 * Guests for `bench/viommu.ts`: they write tables, descriptors and requests, and run the vIOMMU in this thread until
 * each is complete. The containers and pin tables are real.
 */
import { Prng } from '#host';
import * as virtio from '../src/abi/virtio.ts';
import * as format from '../src/abi/virtio-iommu.ts';
import * as vtd from '../src/abi/vtd.ts';
import { ContainerNotifier } from '../src/coordinator/vm/container-notifier.ts';
import type { Descriptor } from '../src/guest/iommu/command-ring.ts';
import { SECOND_STAGE_IOTLB } from '../src/guest/iommu/vtd/descriptors.ts';
import { type Hpa, PAGE_SIZE, PERM_RW } from '../src/memory/address.ts';
import { GuestRam } from '../src/memory/guest-ram.ts';
import { HPA_BASE } from '../src/memory/host-memory.ts';
import { PinTableWriter } from '../src/pin-table/writer.ts';
import type { Completion } from '../src/platform/completion.ts';
import { Container } from '../src/vfio/container.ts';
import { DeviceAddressSpace } from '../src/viommu/address-space.ts';
import type { TranslationVisitor } from '../src/viommu/notifier.ts';
import { IOVA_LIMIT } from '../src/viommu/notifier.ts';
import type { VIommu } from '../src/viommu/viommu.ts';
import { VirtioIommu } from '../src/viommu/virtio/iommu.ts';
import { IntelIommu } from '../src/viommu/vtd/iommu.ts';
import { SecondLevelFormat, SecondLevelTables } from '../src/viommu/vtd/second-level.ts';

const MIB = 2 ** 20;
const RAM_BYTES = 64 * MIB;
/** Start of the buffers that devices access; the tables are below it. */
export const DATA = 32 * MIB;
const DATA_PAGES = (RAM_BYTES - DATA) / PAGE_SIZE;
export const QUEUE = 2 * MIB;
export const STATUS: number = QUEUE + PAGE_SIZE;
export const ROOT = 3 * MIB;
const CONTEXTS = ROOT + PAGE_SIZE;
export const TABLES = 4 * MIB;
const TABLE_ENTRIES = 512;
const DESCRIPTORS = vtd.QI_MIN_BYTES / vtd.QI_DESCRIPTOR_BYTES;
/** Nodes of the other devices' tables, which stay empty. */
export const IDLE_NODES = 4;
const RING_ENTRIES = 64;
const AVAIL = QUEUE + 16 * RING_ENTRIES;
const USED = STATUS;
const REQUEST = USED + PAGE_SIZE;
const ANSWER = REQUEST + 64;
const DOMAIN = 1;

/** Returns the GPA of page `page` of the IOVA space. Consecutive pages are apart, so no larger leaves are used. */
export const gpaOf = (page: number): number => DATA + ((page * 7 + 1) % DATA_PAGES) * PAGE_SIZE;

export const newRam = (): GuestRam => GuestRam.allocate(HPA_BASE as Hpa, RAM_BYTES, 0, new Prng(1));

/** Checks that the work is already complete. */
export function now(work: Completion): void {
  if (work) throw new Error('the vIOMMU did not finish in the same turn');
}

export function plug(
  iommu: VIommu,
  ram: GuestRam,
  id: number,
  nodes: number,
  entryLimit?: number,
): Container {
  const container = new Container(new PinTableWriter(nodes), ram, entryLimit ? { entryLimit } : {});
  now(iommu.attach(new DeviceAddressSpace(id, new ContainerNotifier(container, ram), ram.regions)));
  return container;
}

/** A guest of VT-d in legacy mode with caching mode: one domain for each device; the first device is measured. */
export class VtdGuest {
  readonly ram = newRam();
  readonly iommu = new IntelIommu({ ram: this.ram, awBits: 48, cachingMode: true });
  readonly container: Container;
  readonly #lowest: number;
  #tail = 0;

  /** @param pages count of pages that the first device's tables can map, from IOVA 0 on */
  constructor(devices: number, pages: number) {
    const tables = Math.ceil(pages / TABLE_ENTRIES);
    const directories = Math.ceil(tables / TABLE_ENTRIES);
    const entry = (at: number, target: number, flags: number) => this.ram.write32(at, target + flags);
    const top = TABLES;
    const upper = top + PAGE_SIZE;
    const directory = upper + PAGE_SIZE;
    const lowest = directory + directories * PAGE_SIZE;
    entry(top, upper, PERM_RW);
    for (let i = 0; i < directories; i++) entry(upper + 8 * i, directory + i * PAGE_SIZE, PERM_RW);
    for (let i = 0; i < tables; i++) entry(directory + 8 * i, lowest + i * PAGE_SIZE, PERM_RW);
    this.#lowest = lowest;
    for (let id = 0; id < devices; id++) {
      const context = CONTEXTS + (id >>> 8) * PAGE_SIZE;
      entry(ROOT + (id >>> 8) * vtd.ROOT_ENTRY_BYTES, context, vtd.ROOT_P);
      const at = context + (id & 0xff) * vtd.CONTEXT_ENTRY_BYTES;
      entry(at, id === 0 ? top : DATA, vtd.CONTEXT_P);
      this.ram.write32(at + 8, 2 | ((DOMAIN + id) << vtd.CONTEXT_DID_SHIFT));
    }
    this.#write(vtd.RTADDR_REG, 8, BigInt(ROOT));
    this.#write(vtd.IQA_REG, 8, BigInt(QUEUE));
    this.#write(vtd.GCMD_REG, 4, BigInt(vtd.GCMD_SRTP));
    this.#write(vtd.GCMD_REG, 4, BigInt(vtd.GCMD_QIE));
    this.#write(vtd.GCMD_REG, 4, BigInt((vtd.GCMD_QIE | vtd.GCMD_TE) >>> 0));
    this.container = plug(this.iommu, this.ram, 0, tables + directories + 64, pages + 1);
    for (let id = 1; id < devices; id++) plug(this.iommu, this.ram, id, IDLE_NODES);
  }

  map(page: number): void {
    this.setEntry(page);
    this.#invalidate(page);
  }

  unmap(page: number): void {
    this.ram.write32(this.#lowest + 8 * page, 0);
    this.#invalidate(page);
  }

  /** Writes the leaf of a page without an invalidation. */
  setEntry(page: number): void {
    this.ram.write32(this.#lowest + 8 * page, gpaOf(page) + PERM_RW);
  }

  /** Turns translation off, which removes all mappings. */
  disable(): void {
    this.#write(vtd.GCMD_REG, 4, BigInt(vtd.GCMD_QIE));
  }

  /** Turns translation on, which replays the tables. */
  enable(): void {
    this.#write(vtd.GCMD_REG, 4, BigInt((vtd.GCMD_QIE | vtd.GCMD_TE) >>> 0));
  }

  /** Visits the tables' translations as a replay does. */
  walk(visit: TranslationVisitor): void {
    const format = new SecondLevelFormat({ awBits: 48, cachingMode: true });
    new SecondLevelTables(this.ram, TABLES, 4, format).walk(0, IOVA_LIMIT, visit);
  }

  #invalidate(page: number): void {
    this.#push(SECOND_STAGE_IOTLB.pages(DOMAIN, page * PAGE_SIZE, 0));
    this.ram.write32(STATUS, 0);
    this.#push([vtd.QI_WAIT | vtd.WAIT_SW | vtd.WAIT_FN, 1, STATUS, 0]);
    this.#write(vtd.IQT_REG, 8, BigInt(this.#tail * vtd.QI_DESCRIPTOR_BYTES));
    if (this.ram.load32(STATUS) !== 1) throw new Error('an invalidation was not completed');
  }

  #push([a, b, c, d]: Descriptor): void {
    const at = QUEUE + this.#tail * vtd.QI_DESCRIPTOR_BYTES;
    this.ram.write32(at, a);
    this.ram.write32(at + 4, b);
    this.ram.write32(at + 8, c);
    this.ram.write32(at + 12, d);
    this.#tail = (this.#tail + 1) % DESCRIPTORS;
  }

  #write(offset: number, size: number, value: bigint): void {
    now(this.iommu.writeRegister(offset, size, value));
  }
}

/** A guest of virtio-iommu: one domain for each device; the first device is measured. */
export class VirtioGuest {
  readonly ram = newRam();
  readonly iommu = new VirtioIommu({ ram: this.ram });
  readonly container: Container;
  readonly #request = new DataView(new ArrayBuffer(format.MAP_BYTES));
  #offered = 0;

  constructor(devices: number) {
    const status = virtio.STATUS_ACKNOWLEDGE | virtio.STATUS_DRIVER | virtio.STATUS_FEATURES_OK;
    this.#word(virtio.DRIVER_FEATURES_REG, Number(format.IOMMU_FEATURES & 0xffff_ffffn));
    this.#word(virtio.STATUS_REG, status);
    this.#word(virtio.QUEUE_SIZE_REG, RING_ENTRIES);
    this.#word(virtio.QUEUE_DESC_LOW_REG, QUEUE);
    this.#word(virtio.QUEUE_DRIVER_LOW_REG, AVAIL);
    this.#word(virtio.QUEUE_DEVICE_LOW_REG, USED);
    this.#word(virtio.QUEUE_READY_REG, 1);
    this.#word(virtio.STATUS_REG, status | virtio.STATUS_DRIVER_OK);
    for (const [at, word] of [
      [0, REQUEST],
      [12, virtio.DESC_F_NEXT | (1 << 16)],
      [16, ANSWER],
      [24, format.TAIL_BYTES],
      [28, virtio.DESC_F_WRITE],
    ] as const)
      this.ram.write32(QUEUE + at, word);
    this.container = plug(this.iommu, this.ram, 0, 64);
    for (let id = 1; id < devices; id++) plug(this.iommu, this.ram, id, IDLE_NODES);
    for (let id = 0; id < devices; id++) this.#attach(id);
  }

  map(page: number): void {
    const request = this.#head(format.T_MAP);
    request.setBigUint64(8, BigInt(page * PAGE_SIZE), true);
    request.setBigUint64(16, BigInt(page * PAGE_SIZE + PAGE_SIZE - 1), true);
    request.setBigUint64(24, BigInt(gpaOf(page)), true);
    request.setUint32(32, PERM_RW, true);
    this.#submit(format.MAP_BYTES);
  }

  unmap(page: number): void {
    const request = this.#head(format.T_UNMAP);
    request.setBigUint64(8, BigInt(page * PAGE_SIZE), true);
    request.setBigUint64(16, BigInt(page * PAGE_SIZE + PAGE_SIZE - 1), true);
    request.setUint32(24, 0, true);
    this.#submit(format.UNMAP_BYTES);
  }

  #attach(id: number): void {
    const request = this.#head(format.T_ATTACH);
    request.setUint32(4, DOMAIN + id, true);
    request.setUint32(8, id, true);
    request.setBigUint64(12, 0n, true);
    this.#submit(format.ATTACH_BYTES);
  }

  #head(type: number): DataView {
    this.#request.setUint32(0, type, true);
    this.#request.setUint32(4, DOMAIN, true);
    return this.#request;
  }

  #submit(bytes: number): void {
    this.ram.write(REQUEST, new Uint8Array(this.#request.buffer, 0, bytes));
    this.ram.write32(QUEUE + 8, bytes);
    this.ram.write32(ANSWER, 0xff);
    const slot = AVAIL + virtio.RING_HEADER_BYTES + 2 * (this.#offered % RING_ENTRIES);
    this.ram.write32(slot - (slot % 4), 0);
    this.#offered = (this.#offered + 1) & 0xffff;
    this.ram.publish32(AVAIL, (this.#offered << 16) >>> 0);
    this.#word(virtio.QUEUE_NOTIFY_REG, 0);
    if (this.ram.load32(ANSWER) !== format.S_OK) throw new Error('a request was refused');
  }

  #word(offset: number, value: number): void {
    now(this.iommu.writeRegister(offset, 4, BigInt(value >>> 0)));
  }
}
