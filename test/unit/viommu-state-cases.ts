/**
 * One unit of each kind with a state in which nothing is as it was made: for tests of states, good and bad.
 */

import * as spapr from '../../src/abi/spapr.ts';
import * as virtio from '../../src/abi/virtio.ts';
import * as format from '../../src/abi/virtio-iommu.ts';
import * as vtd from '../../src/abi/vtd.ts';
import { attachRequest, mapRequest } from '../../src/guest/iommu/virtio/requests.ts';
import type { Iova } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { NoIommu } from '../../src/viommu/none.ts';
import { SpaprIommu } from '../../src/viommu/spapr/iommu.ts';
import type { VIommu } from '../../src/viommu/viommu.ts';
import { VirtioIommu, type VirtioIommuOptions } from '../../src/viommu/virtio/iommu.ts';
import { IntelIommu, type IntelIommuOptions } from '../../src/viommu/vtd/iommu.ts';
import { RecordingNotifier } from './vtd-fakes.ts';

export const DEVICES: readonly number[] = [0x20, 0x28];
export const [FIRST, SECOND] = DEVICES as [number, number];
const ROOT = 0x10000;
const CONTEXTS = 0x11000;
const TOP = 0x12000;
/** Of each table one entry is used, and it leads to the next. */
const LOWEST = 0x15000;
const RING = 0x16000;
const STATUS = 0x17000;
const PASID_DIRECTORY = 0x18000;
const PASID_TABLE = 0x19000;
const REQUEST = 0x1a000;
const ANSWER = 0x1b000;
export const QUEUE_RINGS = [0x1c000, 0x1e000] as const;

/** A unit and its devices. */
export class Bench<Model extends VIommu> {
  readonly ram: GuestRam;
  readonly iommu: Model;
  readonly notifiers = new Map<number, RecordingNotifier>();

  constructor(ram: GuestRam, iommu: Model) {
    this.ram = ram;
    this.iommu = iommu;
  }

  plugAll(): this {
    for (const id of DEVICES) {
      const notifier = new RecordingNotifier(this.ram);
      this.notifiers.set(id, notifier);
      void this.iommu.attach(new DeviceAddressSpace(id, notifier, this.ram.regions));
    }
    return this;
  }

  get held() {
    return DEVICES.map((id) => this.notifiers.get(id)?.mappings);
  }

  notifier(id: number): RecordingNotifier {
    return this.notifiers.get(id) as RecordingNotifier;
  }

  write(offset: number, size: number, value: bigint | number): Promise<void> | undefined {
    return this.iommu.writeRegister(offset, size, BigInt(value));
  }

  translate(id: number, iova: number, write = false) {
    return this.iommu.translate(id, iova as Iova, write);
  }
}

export function write64(ram: GuestRam, at: number, value: number): void {
  ram.write32(at, value % 2 ** 32);
  ram.write32(at + 4, Math.floor(value / 2 ** 32));
}

/** IOVA's leaf in the tables of {@link vtdBench}; IOVAs below 2 MiB. */
export const leafOf = (iova: number): number => LOWEST + (iova / 4096) * 8;

export const makeVtd = (ram: GuestRam, options: Partial<IntelIommuOptions> = {}): IntelIommu =>
  new IntelIommu({ ram, awBits: 48, cachingMode: true, ...options });

function buildTables(ram: GuestRam, scalable: boolean): void {
  write64(ram, ROOT, CONTEXTS + 1);
  for (const id of DEVICES)
    if (scalable) write64(ram, CONTEXTS + id * vtd.SM_CONTEXT_ENTRY_BYTES, PASID_DIRECTORY + 1);
    else {
      write64(ram, CONTEXTS + id * vtd.CONTEXT_ENTRY_BYTES, TOP + 1);
      write64(ram, CONTEXTS + id * vtd.CONTEXT_ENTRY_BYTES + 8, 7 * 256 + 2);
    }
  write64(ram, PASID_DIRECTORY, PASID_TABLE + 1);
  write64(ram, PASID_TABLE, TOP + (vtd.PGTT_SECOND_STAGE << vtd.PASID_PGTT_SHIFT) + (2 << 2) + 1);
  write64(ram, PASID_TABLE + 8, 7);
  for (let table = TOP; table < LOWEST; table += 0x1000) write64(ram, table, table + 0x1000 + 3);
  write64(ram, leafOf(0x5000), 0x100000 + 3);
}

/** Queued invalidation at work, a fault recorded and its message held back, a new root written and not set. */
export function vtdBench(ram: GuestRam, options: Partial<IntelIommuOptions> = {}): Bench<IntelIommu> {
  const bench = new Bench(ram, makeVtd(ram, options)).plugAll();
  const scalable = options.scalable ?? false;
  buildTables(ram, scalable);
  bench.write(vtd.RTADDR_REG, 8, BigInt(ROOT) | (scalable ? vtd.RTADDR_TTM_SCALABLE : 0n));
  bench.write(vtd.IQA_REG, 8, RING + 1);
  bench.write(vtd.GCMD_REG, 4, vtd.GCMD_SRTP);
  bench.write(vtd.GCMD_REG, 4, vtd.GCMD_QIE);
  bench.write(vtd.GCMD_REG, 4, (vtd.GCMD_QIE | vtd.GCMD_TE) >>> 0);
  waitDescriptor(bench, 0);
  bench.write(vtd.FEADDR_REG, 4, 0xfee00000);
  bench.write(vtd.FEDATA_REG, 4, 0x41);
  bench.translate(FIRST, 0x6000, true);
  bench.write(vtd.RTADDR_REG, 8, 0x7654_3000);
  return bench;
}

/** A wait descriptor with a status at entry `index`, and the tail behind it. */
export function waitDescriptor(bench: Bench<IntelIommu>, index: number): Promise<void> | undefined {
  const at = RING + 16 * index;
  write64(bench.ram, at, 9 * 2 ** 32 + vtd.QI_WAIT + vtd.WAIT_SW);
  write64(bench.ram, at + 8, STATUS);
  return bench.write(vtd.IQT_REG, 8, 16 * (index + 1));
}

export const makeVirtio = (ram: GuestRam, options: Partial<VirtioIommuOptions> = {}): VirtioIommu =>
  new VirtioIommu({ ram, mappingLimit: 16, functions: [0], ...options });

/** Both devices in a domain of two mappings, endpoint 0 in a bypass domain, event queue ready. */
export function virtioBench(ram: GuestRam, options: Partial<VirtioIommuOptions> = {}): Bench<VirtioIommu> {
  const bench = new Bench(ram, makeVirtio(ram, options)).plugAll();
  bench.write(virtio.STATUS_REG, 4, virtio.STATUS_ACKNOWLEDGE | virtio.STATUS_DRIVER);
  for (const half of [0, 1]) {
    bench.write(virtio.DRIVER_FEATURES_SEL_REG, 4, half);
    const features = (format.IOMMU_FEATURES >> BigInt(32 * half)) & 0xffff_ffffn;
    bench.write(virtio.DRIVER_FEATURES_REG, 4, features);
  }
  bench.write(virtio.STATUS_REG, 4, 0xb);
  for (const [queue, ring] of QUEUE_RINGS.entries()) {
    bench.write(virtio.QUEUE_SEL_REG, 4, queue);
    bench.write(virtio.QUEUE_SIZE_REG, 4, 4);
    bench.write(virtio.QUEUE_DESC_LOW_REG, 4, ring);
    bench.write(virtio.QUEUE_DRIVER_LOW_REG, 4, ring + 0x400);
    bench.write(virtio.QUEUE_DEVICE_LOW_REG, 4, ring + 0x800);
    bench.write(virtio.QUEUE_READY_REG, 4, 1);
  }
  bench.write(virtio.STATUS_REG, 4, 0xf);
  for (const id of DEVICES) request(bench, attachRequest(3, id, 0));
  request(bench, attachRequest(4, 0, format.ATTACH_F_BYPASS));
  request(bench, mapRequest(3, 0x5000, 0x100000, 0x2000, format.MAP_F_READ | format.MAP_F_WRITE));
  request(bench, mapRequest(3, 0x9000, 0x200000, 0x1000, format.MAP_F_READ));
  return bench;
}

/** Makes one request; undefined while it is under way, else its status. */
export function request(bench: Bench<VirtioIommu>, bytes: Uint8Array): number | undefined {
  const { ram } = bench;
  const ring = QUEUE_RINGS[0];
  const avail = ring + 0x400;
  ram.write(REQUEST, bytes);
  const describe = (i: number, gpa: number, length: number, flags: number) => {
    write64(ram, ring + 16 * i, gpa);
    ram.write32(ring + 16 * i + 8, length);
    ram.write32(ring + 16 * i + 12, flags + 0x10000);
  };
  describe(0, REQUEST, bytes.length, virtio.DESC_F_NEXT);
  describe(1, ANSWER, format.TAIL_BYTES, virtio.DESC_F_WRITE);
  const index = ram.read32(avail) >>> 16;
  const slot = avail + 4 + 2 * (index % 4);
  ram.write(slot, Uint8Array.of(0, 0));
  ram.write32(avail, (((index + 1) & 0xffff) << 16) >>> 0);
  bench.write(virtio.QUEUE_NOTIFY_REG, 4, 0);
  const used = ram.read32(ring + 0x800) >>> 16;
  return used === ((index + 1) & 0xffff) ? ram.read(ANSWER, 1)[0] : undefined;
}

export const VIO_LIOBN = 0x7100_0000;

export const makeSpapr = (ram: GuestRam): SpaprIommu =>
  new SpaprIommu({ ram, vioLiobns: [VIO_LIOBN], bridges: [{}, { dynamicWindows: false }], liveTceLimit: 64 });

/** TCEs in the default window and in a dynamic one of 64 KiB pages beyond 2^53, a VIO window's, a call by page. */
export function spaprBench(ram: GuestRam): Bench<SpaprIommu> {
  const bench = new Bench(ram, makeSpapr(ram)).plugAll();
  const { iommu } = bench;
  const liobn = (slot: number) => BigInt(spapr.liobnOf(0, slot));
  for (const [index, tce] of [
    [0n, 0x100003n],
    [1n, 0x101001n],
    [7n, 0x103002n],
  ] as const)
    iommu.hypercall(spapr.H_PUT_TCE, [liobn(0), index << 12n, tce]);
  iommu.rtas(spapr.CREATE_PE_DMA_WINDOW, [0, spapr.BUID_HI, spapr.BUID_LO, 16, 30], 4);
  iommu.hypercall(spapr.H_PUT_TCE, [liobn(1), BigInt(spapr.DYNAMIC_WINDOW_START), 0x110003n]);
  iommu.hypercall(spapr.H_PUT_TCE, [BigInt(VIO_LIOBN), 0x3000n, 0x120003n]);
  const slot = spapr.CALL_SLOT_BASE + 2 * spapr.CALL_SLOT_BYTES;
  bench.write(slot + spapr.CALL_OPCODE, 8, spapr.H_GET_TCE);
  bench.write(slot + spapr.CALL_ARG0, 8, liobn(0));
  bench.write(slot + spapr.CALL_DOORBELL, 8, 5);
  return bench;
}

/** Each kind: one as made, and one with a state. */
export const CASES: Readonly<
  Record<string, { make(ram: GuestRam): VIommu; bench(ram: GuestRam): Bench<VIommu> }>
> = {
  none: { make: (ram) => new NoIommu(ram), bench: (ram) => new Bench(ram, new NoIommu(ram)).plugAll() },
  'VT-d, legacy mode': { make: (ram) => makeVtd(ram), bench: (ram) => vtdBench(ram) },
  'VT-d, scalable mode': {
    make: (ram) => makeVtd(ram, { scalable: true }),
    bench: (ram) => vtdBench(ram, { scalable: true }),
  },
  'virtio-iommu': { make: (ram) => makeVirtio(ram), bench: virtioBench },
  spapr: { make: makeSpapr, bench: spaprBench },
};
