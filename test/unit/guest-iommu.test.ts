/**
 * Duties of the guest's vIOMMU drivers beyond a successful map: after errors, between domains, at limits. Each driver
 * runs with its model, in one process.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import { bridgeOfDevice, SCENARIO_WINDOW_SIZE } from '../../src/abi/spapr-host-bridges.ts';
import * as vtd from '../../src/abi/vtd.ts';
import { MappingRecord } from '../../src/conformance/mapping-record.ts';
import { InFlightError } from '../../src/guest/in-flight.ts';
import { SpaprDriver } from '../../src/guest/iommu/spapr/driver.ts';
import { SoftwareSwitchedSpapr } from '../../src/guest/iommu/spapr/switched-driver.ts';
import { VirtioIommuDriver } from '../../src/guest/iommu/virtio/driver.ts';
import { SoftwareSwitchedVirtioIommu } from '../../src/guest/iommu/virtio/switched-driver.ts';
import { VtdDriver, type VtdMode } from '../../src/guest/iommu/vtd/driver.ts';
import { QUEUE_ENTRIES } from '../../src/guest/iommu/vtd/invalidation-queue.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import type { RegisterPort } from '../../src/guest/register-port.ts';
import { type Iova, PAGE_2M, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { requesterId } from '../../src/pci/config-space.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { createViommu } from '../../src/viommu/create-viommu.ts';
import { SpaprIommu } from '../../src/viommu/spapr/iommu.ts';
import type { VIommu } from '../../src/viommu/viommu.ts';
import { VirtioIommu } from '../../src/viommu/virtio/iommu.ts';
import { IntelIommu } from '../../src/viommu/vtd/iommu.ts';
import { MIB, RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const DEVICE = requesterId(0, 1, 0);
const OTHER = requesterId(0, 2, 0);
const HOST_BRIDGE = requesterId(0, 0, 0);
const HIGH = 2 ** 33;

const failure = (work: Promise<unknown>): Promise<Error | undefined> =>
  work.then(
    () => undefined,
    (error: Error) => error,
  );
const held = ({ mappings }: RecordingNotifier) =>
  mappings.map(({ iova, gpa, size }) => [iova, gpa, size] as const);

describe("guest's VT-d driver", () => {
  /** Starts a driver. Writes to its registers wait while `gate` is a promise. */
  async function setUp(mode: VtdMode = 'legacy', pageBytes = 4 * MIB) {
    const ram = smallRam(16 * MIB);
    const all = {
      awBits: 48,
      cachingMode: true,
      scalable: true,
      firstStage: true,
      secondStage: true,
    } as const;
    const iommu = new IntelIommu({ ...all, ram });
    const writes: (readonly [offset: number, value: bigint])[] = [];
    const state: { gate: Promise<void> | undefined } = { gate: undefined };
    const port: RegisterPort = {
      async write(offset, size, value) {
        writes.push([offset, value]);
        await state.gate;
        iommu.writeRegister(offset, size, value);
      },
      read: async (offset, size) => iommu.readRegister(offset, size),
    };
    const notifier = new RecordingNotifier(ram);
    iommu.attach(new DeviceAddressSpace(DEVICE, notifier, ram.regions));
    iommu.attach(new DeviceAddressSpace(OTHER, new RecordingNotifier(ram), ram.regions));
    const driver = new VtdDriver(port, ram, new PageAllocator(ram, MIB, pageBytes), {
      timeoutMs: 5000,
      mode,
    });
    await driver.start();
    const domain = driver.createDomain();
    /** Returns the types and domain IDs of the descriptors that `work` submits. */
    const descriptors = async (work: () => Promise<unknown>) => {
      const { ring, tail } = driver.save().queue;
      await work();
      const bytes = mode === 'legacy' ? vtd.QI_DESCRIPTOR_BYTES : vtd.QI_WIDE_DESCRIPTOR_BYTES;
      const words = Array.from({ length: driver.save().queue.tail - tail }, (_, i) =>
        ram.read32(ring + (tail + i) * bytes),
      );
      return words.map((word) => ({ type: word & 15, domain: word >>> 16 }));
    };
    const attach = async () => {
      await driver.attach(DEVICE, domain);
      await driver.enableTranslation();
    };
    return { ram, iommu, port, writes, state, notifier, driver, domain, attach, descriptors };
  }

  it('invalidates IOVAs above 4 GiB', async () => {
    const { attach, domain, notifier } = await setUp();
    await attach();
    await domain.map(HIGH + PAGE_SIZE, 0x5000, PAGE_SIZE, PERM_RW);
    expect(held(notifier)).to.deep.equal([[HIGH + PAGE_SIZE, 0x5000, PAGE_SIZE]]);
    await domain.unmap(HIGH + PAGE_SIZE, PAGE_SIZE);
    expect(held(notifier)).to.deep.equal([]);
  });

  it('announces what it has done before an error', async () => {
    const { attach, domain, notifier } = await setUp();
    await attach();
    const range = (iova: number, gpa: number, size = PAGE_SIZE) => ({ iova, gpa, size, perm: PERM_RW });
    expect(await failure(domain.mapAll([range(0, 0x5000), range(1, 0x5000)]))).to.be.instanceOf(RangeError);
    expect(held(notifier)).to.deep.equal([[0, 0x5000, PAGE_SIZE]]);
    await domain.map(PAGE_2M, PAGE_2M, PAGE_2M, PERM_RW);
    const part = { iova: PAGE_2M, size: PAGE_SIZE };
    expect((await failure(domain.unmapAll([{ iova: 0, size: PAGE_SIZE }, part])))?.name).to.equal(
      'PartialUnmap',
    );
    expect(held(notifier)).to.deep.equal([[PAGE_2M, PAGE_2M, PAGE_2M]]);
  });

  it('maps nothing of a range for which pages run out', async () => {
    const { attach, domain, notifier } = await setUp('legacy', 10 * PAGE_SIZE);
    await attach();
    const error = await failure(domain.map(0, PAGE_SIZE, 14 * MIB, PERM_RW));
    expect(error?.name).to.equal('PageAllocatorExhausted');
    expect([await domain.unmap(0, 14 * MIB), held(notifier)]).to.deep.equal([0, []]);
  });

  it('uses a large leaf only for an aligned GPA', async () => {
    const { attach, domain, iommu } = await setUp();
    await attach();
    await domain.map(PAGE_2M, 0x3000, PAGE_2M, PERM_RW);
    for (const at of [0, 0x5000, PAGE_2M - PAGE_SIZE])
      expect(iommu.translate(DEVICE, (PAGE_2M + at) as Iova, false), `${at}`).to.include({
        gpa: 0x3000 + at,
      });
  });

  it('invalidates a new context entry, and the domain that a device leaves', async () => {
    const { driver, domain, descriptors } = await setUp('second-stage');
    const first = await descriptors(() => driver.attach(DEVICE, domain));
    expect(first.map(({ type }) => type)).to.include(vtd.QI_CONTEXT_CACHE);
    const other = driver.createDomain();
    const second = await descriptors(() => driver.attach(DEVICE, other));
    expect(second).to.deep.include({ type: vtd.QI_IOTLB, domain: domain.id });
    expect(second).to.deep.include({ type: vtd.QI_IOTLB, domain: other.id });
  });

  it('repeats no one-shot command, and clears an overflow of faults', async () => {
    const { attach, driver, iommu, writes } = await setUp();
    writes.splice(0);
    await attach();
    const commands = writes.filter(([offset]) => offset === vtd.GCMD_REG);
    expect(commands.map(([, value]) => Number(value) & vtd.GCMD_SRTP)).to.deep.equal([0]);
    for (const device of [DEVICE, OTHER]) iommu.translate(device, 0x1000 as Iova, true);
    expect(Number(iommu.readRegister(vtd.FSTS_REG, 4)) & vtd.FSTS_PFO).to.equal(vtd.FSTS_PFO);
    expect(await driver.readFaults()).to.include({ iova: 0x1000 });
    iommu.translate(DEVICE, 0x4000 as Iova, true);
    expect(await driver.readFaults()).to.include({ iova: 0x4000 });
  });

  it('keeps two slots of its queue free, and gives each submission a value of its own', async () => {
    const { attach, domain, driver, writes, state } = await setUp();
    await attach();
    const before = driver.save().queue.value;
    let open = () => {};
    state.gate = new Promise((resolve) => {
      open = resolve;
    });
    writes.splice(0);
    const maps = Array.from({ length: QUEUE_ENTRIES }, (_, i) =>
      domain.map(i * PAGE_SIZE, 0x5000, PAGE_SIZE, PERM_RW),
    );
    for (let i = 0; i < 5; i++) await yieldTurn();
    expect(writes.filter(([offset]) => offset === vtd.IQT_REG)).to.have.length((QUEUE_ENTRIES - 2) / 2);
    open();
    await Promise.all(maps);
    expect(driver.save().queue.value - before).to.equal(QUEUE_ENTRIES);
  });
});

describe("guest's virtio-iommu driver", () => {
  /** Records the order of its calls. */
  class Recorded extends VirtioIommuDriver {
    readonly calls: string[] = [];
    override setBypass(on: boolean): Promise<void> {
      this.calls.push(`bypass ${on}`);
      return super.setBypass(on);
    }
    override detach(endpoint: number): Promise<void> {
      this.calls.push(`detach ${endpoint}`);
      return super.detach(endpoint);
    }
  }

  async function setUp(options = {}) {
    const ram = smallRam(32 * MIB);
    const iommu = new VirtioIommu({ ram, ...options });
    const port: RegisterPort = {
      write: async (offset, size, value) => void iommu.writeRegister(offset, size, value),
      read: async (offset, size) => iommu.readRegister(offset, size),
    };
    const notifier = new RecordingNotifier(ram);
    iommu.attach(new DeviceAddressSpace(DEVICE, notifier, ram.regions));
    iommu.attach(new DeviceAddressSpace(HOST_BRIDGE, new RecordingNotifier(ram), ram.regions));
    const pages = new PageAllocator(ram, MIB, 4 * MIB);
    const driver = new Recorded(port, ram, pages);
    await driver.start();
    return { ram, port, pages, driver, notifier };
  }

  it('forgets a mapping that the device refuses, and keeps the whole of others', async () => {
    const { driver, notifier } = await setUp({ mappingLimit: 2 });
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    const at = (page: number, pages = 1) =>
      [page * PAGE_SIZE, 0x10_0000 + page * PAGE_SIZE, pages * PAGE_SIZE] as const;
    const map = (page: number, pages = 1) => domain.map(...at(page, pages), PERM_RW);
    await map(0, 4);
    await map(8);
    expect((await failure(map(16)))?.message).to.match(/the device returned/);
    expect((await failure(map(2, 4)))?.message).to.match(/overlaps/);
    expect((await failure(domain.unmap(0, 2 * PAGE_SIZE)))?.message).to.match(/would split/);
    expect(held(notifier)).to.deep.equal([at(0, 4), at(8)]);
    await domain.unmap(8 * PAGE_SIZE, PAGE_SIZE);
    await map(16);
    expect(held(notifier)).to.deep.equal([at(0, 4), at(16)]);
  });

  it('uses domain IDs up to the last of the device', async () => {
    const { driver, port, ram, pages } = await setUp();
    const saved = driver.save();
    const restored = VirtioIommuDriver.restore(port, ram, pages, { ...saved, nextId: saved.lastId });
    expect(restored.createDomain().id).to.equal(saved.lastId);
    expect(() => restored.createDomain()).to.throw('all domain IDs are in use');
  });

  it('moves its placeholder out of a domain, and lets devices see memory before they leave theirs', async () => {
    const { driver } = await setUp();
    const iommu = new SoftwareSwitchedVirtioIommu(driver);
    const domain = iommu.createDomain();
    await iommu.attach(DEVICE, domain);
    expect(domain.endpoints.size, 'translation is disabled').to.equal(0);
    await iommu.enableTranslation();
    expect([...domain.endpoints]).to.deep.equal([DEVICE]);
    driver.calls.splice(0);
    await iommu.disableTranslation();
    expect(driver.calls).to.deep.equal(['bypass true', `detach ${DEVICE}`]);
  });
});

describe("guest's sPAPR driver", () => {
  function rig(make = (ram: GuestRam): VIommu => new SpaprIommu({ ram })) {
    const ram = smallRam(32 * MIB, 16 * MIB);
    const iommu = make(ram);
    const pages = new PageAllocator(ram, MIB, 4 * MIB);
    const port: RegisterPort = {
      write: (offset, size, value) => void iommu.writeRegister(offset, size, value),
      read: async (offset, size) => iommu.readRegister(offset, size),
    };
    return { ram, iommu, pages, port };
  }

  async function switched() {
    const { ram, iommu, pages, port } = rig((of) => createViommu('spapr', of));
    const record = new MappingRecord(ram);
    void iommu.attach(new DeviceAddressSpace(DEVICE, record, ram.regions));
    const driver = await SoftwareSwitchedSpapr.create(port, ram, pages, [DEVICE]);
    return { driver, gpaAt: (iova: number) => record.mappingAt(iova)?.gpa };
  }

  it('changes one TCE at a time, and leaves gaps between ranges', async () => {
    const { ram, iommu, pages, port } = rig();
    const record = new MappingRecord(ram);
    const bridge = bridgeOfDevice(DEVICE);
    void iommu.attach(new DeviceAddressSpace(DEVICE, record, ram.regions));
    const { defaultDomain } = await SpaprDriver.create(port, ram, pages, { bridge });
    const page = (index: number) => ({
      iova: index * PAGE_SIZE,
      gpa: 0x10_0000 + index * PAGE_SIZE,
      size: PAGE_SIZE,
      perm: PERM_RW,
    });
    const twice = [page(0), page(0)].map((range) => failure(defaultDomain.mapAll([range])));
    expect((await Promise.all(twice)).map((error) => error?.name)).to.deep.equal([
      undefined,
      'WindowRangeError',
    ]);
    await defaultDomain.mapAll([page(1), page(3), page(4)]);
    expect([1, 2, 3, 4, 5].map((index) => record.mappingAt(index * PAGE_SIZE)?.gpa)).to.deep.equal([
      0x10_1000,
      undefined,
      0x10_3000,
      0x10_4000,
      undefined,
    ]);
  });

  it('shows a device its own domain only, as it is now', async () => {
    const { driver, gpaAt } = await switched();
    const [first, second] = [driver.createDomain(), driver.createDomain()];
    expect((await failure(first.map(SCENARIO_WINDOW_SIZE, 0, PAGE_SIZE, PERM_RW)))?.name).to.equal(
      'WindowRangeError',
    );
    await driver.attach(DEVICE, first);
    await driver.enableTranslation();
    await first.map(0x4000, 0x10_0000, PAGE_SIZE, PERM_RW);
    expect(gpaAt(0x4000)).to.equal(0x10_0000);
    await first.unmap(0x4000, PAGE_SIZE);
    expect(gpaAt(0x4000)).to.equal(undefined);
    await first.map(0x4000, 0x10_0000, PAGE_SIZE, PERM_RW);
    expect(gpaAt(0x4000), 'the same page again').to.equal(0x10_0000);
    await driver.attach(DEVICE, second);
    await second.map(0x5000, 0x10_1000, PAGE_SIZE, PERM_RW);
    expect([gpaAt(0x4000), gpaAt(0x5000)]).to.deep.equal([undefined, 0x10_1000]);
    const before = driver.save().drivers.calls.slots.map(({ sequence }) => sequence);
    await first.map(0x5000, 0x10_2000, PAGE_SIZE, PERM_RW);
    expect(gpaAt(0x5000), 'of the second domain').to.equal(0x10_1000);
    const after = driver.save().drivers.calls.slots.map(({ sequence }) => sequence);
    expect(after, 'no hypercall for a domain without devices').to.deep.equal(before);
  });

  it('loses the slot of a late call, and ends those that wait when all are lost', async () => {
    const { ram, iommu, pages, port } = rig();
    const notifier = new RecordingNotifier(ram);
    void iommu.attach(new DeviceAddressSpace(DEVICE, notifier, ram.regions));
    const driver = await SpaprDriver.create(port, ram, pages, { timeoutMs: 50 });
    const { defaultDomain } = driver;
    const at = (index: number) => 2 * index * PAGE_SIZE;
    for (let i = 0; i < 18; i++) await defaultDomain.map(at(i), 0x10_0000, PAGE_SIZE, PERM_RW);
    notifier.hold();
    expect((await failure(defaultDomain.unmap(at(0), PAGE_SIZE)))?.name).to.equal('HypercallTimeout');
    expect(() => driver.save()).to.throw(InFlightError, '1 hypercalls');
    const errors = await Promise.all(
      Array.from({ length: 16 }, (_, i) => failure(defaultDomain.unmap(at(i + 1), PAGE_SIZE))),
    );
    expect(errors.filter((error) => error?.name === 'HypercallTimeout')).to.have.length(15);
    expect(errors.map((error) => error?.message).join()).to.include('none of 16 hypercall slots');
    notifier.release();
  });
});
