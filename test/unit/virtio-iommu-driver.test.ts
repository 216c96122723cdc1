/**
 * The guest's virtio-iommu driver with the model, in one process, and the model's completion rules.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { sleep, yieldTurn } from '#host';
import * as virtio from '../../src/abi/virtio.ts';
import * as format from '../../src/abi/virtio-iommu.ts';
import {
  EVENT_BUFFERS,
  RequestTimeout,
  VirtioIommuDriver,
  VirtioIommuError,
} from '../../src/guest/iommu/virtio/driver.ts';
import {
  attachRequest,
  BATCH_LIMIT,
  detachRequest,
  RequestQueue,
} from '../../src/guest/iommu/virtio/requests.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import type { RegisterPort } from '../../src/guest/register-port.ts';
import { type Iova, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { TURN_WORK_LIMIT, VirtioIommu, type VirtioIommuOptions } from '../../src/viommu/virtio/iommu.ts';
import { MIB, RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const DEVICE = 0x0108;
const OTHER = 0x0110;
const RAM_BYTES = 32 * MIB;
const IOVA = 0x4000_0000;

interface SetUp extends Partial<VirtioIommuOptions> {
  readonly timeoutMs?: number;
  /** While true, each write arrives a turn later, as through a ring. */
  readonly delayed?: boolean;
}

async function setUp({ timeoutMs = 2000, delayed = false, ...options }: SetUp = {}) {
  const ram = smallRam(RAM_BYTES);
  const iommu = new VirtioIommu({ ram, ...options });
  const completions: Promise<void>[] = [];
  const port: RegisterPort = {
    async write(offset, size, value) {
      if (delayed) await yieldTurn();
      const work = iommu.writeRegister(offset, size, value);
      if (work) completions.push(work);
    },
    read: async (offset, size) => iommu.readRegister(offset, size),
  };
  const plug = (id: number) => {
    const notifier = new RecordingNotifier(ram);
    const space = new DeviceAddressSpace(id, notifier, ram.regions);
    iommu.attach(space);
    return { notifier, space };
  };
  const device = plug(DEVICE);
  const other = plug(OTHER);
  const pages = new PageAllocator(ram, MIB, 4 * MIB);
  const driver = await VirtioIommuDriver.create(port, ram, pages, { timeoutMs });
  return { ram, iommu, port, device, other, pages, driver, completions };
}

async function rejection(work: Promise<unknown>): Promise<Error> {
  try {
    await work;
  } catch (error) {
    return error as Error;
  }
  throw new Error('it was not rejected');
}

describe('virtio-iommu driver', () => {
  it('initialises the device, and keeps endpoints in the state of `bypass`', async () => {
    const { iommu, device } = await setUp({ bootBypass: true });
    expect(iommu.readRegister(virtio.STATUS_REG, 4)).to.equal(0xfn);
    expect(device.space.kind).to.equal('system');
    expect((await setUp()).device.space.kind).to.equal('blocked');
  });

  it('maps, maps again after the last endpoint has left, and unmaps', async () => {
    const { driver, device, other } = await setUp({ delayed: true });
    const domain = driver.createDomain();
    await domain.map(IOVA, 0, 2 * PAGE_SIZE, PERM_RW);
    expect(device.notifier.mappings).to.have.length(0);
    await driver.attach(DEVICE, domain);
    expect(device.space.kind).to.equal('iommu');
    await domain.map(IOVA + 0x10000, 0x10000, PAGE_SIZE, PERM_READ);
    expect(device.notifier.mappings.map(({ iova, perm }) => [iova, perm])).to.deep.equal([
      [IOVA, PERM_RW],
      [IOVA + 0x10000, PERM_READ],
    ]);
    await driver.attach(OTHER, domain);
    expect(other.notifier.mappings).to.deep.equal(device.notifier.mappings);
    await driver.detach(DEVICE);
    await driver.detach(OTHER);
    expect(other.space.kind).to.equal('blocked');
    expect(await domain.unmap(IOVA + 0x10000, PAGE_SIZE)).to.equal(PAGE_SIZE);
    await driver.attach(OTHER, domain);
    expect(other.notifier.mappings.map(({ iova }) => iova)).to.deep.equal([IOVA]);
    expect(await domain.unmap(0, 2 ** 40)).to.equal(2 * PAGE_SIZE);
    expect(other.notifier.mappings).to.have.length(0);
  });

  it('moves a device between domains, and to a bypass domain', async () => {
    const { driver, device } = await setUp();
    const [a, b] = [driver.createDomain(), driver.createDomain()];
    await a.map(IOVA, 0, PAGE_SIZE, PERM_RW);
    await b.map(IOVA, PAGE_SIZE, PAGE_SIZE, PERM_RW);
    await driver.attach(DEVICE, a);
    await driver.attach(DEVICE, b);
    expect(device.notifier.mappingAt(IOVA)?.gpa).to.equal(PAGE_SIZE);
    await driver.attach(DEVICE, driver.createBypassDomain());
    expect(device.space.kind).to.equal('system');
    await driver.attach(DEVICE, a);
    expect(device.notifier.mappingAt(IOVA)?.gpa).to.equal(0);
    await driver.destroyDomain(b);
    expect(driver.createDomain().id, 'ids are used again').to.equal(b.id);
    expect(await rejection(driver.destroyDomain(a))).to.be.instanceOf(VirtioIommuError);
  });

  it('switches bypass only for devices without a domain', async () => {
    const { driver, device, other } = await setUp();
    await driver.attach(DEVICE, driver.createDomain());
    await driver.setBypass(true);
    expect([device.space.kind, other.space.kind]).to.deep.equal(['iommu', 'system']);
    await driver.setBypass(false);
    expect(other.space.kind).to.equal('blocked');
  });

  it('serves more flows and requests than the queue can hold', async () => {
    const { driver, device } = await setUp({ delayed: true });
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    const flows = Array.from({ length: 12 }, async (_, flow) => {
      const base = IOVA + flow * 2 ** 24;
      for (let round = 0; round < 4; round++) {
        const count = 1 + ((flow * 7 + round * 13) % (2 * BATCH_LIMIT + 3));
        const ranges = Array.from({ length: count }, (_, i) => ({
          iova: base + i * PAGE_SIZE,
          gpa: i * PAGE_SIZE,
          size: PAGE_SIZE,
          perm: PERM_RW,
        }));
        await domain.mapAll(ranges);
        for (const { iova, gpa } of ranges) expect(device.notifier.mappingAt(iova)?.gpa).to.equal(gpa);
        expect(await domain.unmap(base, count * PAGE_SIZE)).to.equal(count * PAGE_SIZE);
      }
    });
    const moves = (async () => {
      for (let i = 0; i < 5; i++) {
        await driver.attach(OTHER, domain);
        await driver.detach(OTHER);
      }
    })();
    await Promise.all([...flows, moves]);
    expect(device.notifier.mappings).to.have.length(0);
  });

  it('reports unsupported operations', async () => {
    const { driver } = await setUp();
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    await domain.map(IOVA, 0, 4 * PAGE_SIZE, PERM_RW);
    const message = async (work: Promise<unknown>) => (await rejection(work)).message;
    expect(await message(domain.map(IOVA + PAGE_SIZE, 0, PAGE_SIZE, PERM_RW))).to.match(/overlaps .* mapped/);
    expect(await message(domain.map(IOVA, 0, 100, PERM_RW))).to.match(/not a range of 4096-byte pages/);
    expect(await message(domain.unmap(IOVA, PAGE_SIZE))).to.match(/would split/);
    expect(await message(domain.map(0xfee0_0000, 0, PAGE_SIZE, PERM_RW))).to.match(
      /the device returned INVAL/,
    );
    expect(await message(domain.map(2 ** 48, 0, PAGE_SIZE, PERM_RW))).to.match(/the device returned RANGE/);
    expect(await message(driver.attach(0x30, domain))).to.match(/ATTACH of 48: the device returned NOENT/);
    expect(await message(driver.createBypassDomain().map(0, 0, PAGE_SIZE, PERM_RW))).to.match(
      /bypass domain/,
    );
    await domain.map(IOVA + 2 ** 20, 0, PAGE_SIZE, PERM_RW);
  });

  it('reads reported faults, and the device drops faults without a buffer', async () => {
    const { driver, iommu } = await setUp();
    await driver.attach(DEVICE, driver.createDomain());
    for (let i = 0; i <= EVENT_BUFFERS; i++) iommu.translate(DEVICE, (i * PAGE_SIZE) as Iova, false);
    expect(iommu.counters.droppedEvents).to.equal(1);
    const faults = await driver.readFaults();
    expect(faults).to.have.length(EVENT_BUFFERS);
    expect(faults[3]).to.deep.equal({
      reason: format.FAULT_MAPPING,
      flags: format.FAULT_F_ADDRESS,
      endpoint: DEVICE,
      address: 3 * PAGE_SIZE,
    });
    iommu.translate(OTHER, 0 as Iova, true);
    expect((await driver.readFaults()).map(({ reason }) => reason)).to.deep.equal([format.FAULT_DOMAIN]);
  });

  it('receives the reply only when no device can use a removed mapping (R6)', async () => {
    const { driver, device, completions } = await setUp();
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    await domain.map(IOVA, 0, PAGE_SIZE, PERM_RW);
    device.notifier.hold();
    let [unmapped, mapped] = [false, false];
    const first = domain.unmap(IOVA, PAGE_SIZE).then(() => {
      unmapped = true;
    });
    const second = domain.map(IOVA + PAGE_SIZE, 0, PAGE_SIZE, PERM_RW).then(() => {
      mapped = true;
    });
    await sleep(20);
    expect([unmapped, mapped]).to.deep.equal([false, false]);
    expect(completions).to.have.length.above(0);
    device.notifier.release();
    await Promise.all([first, second, ...completions]);
    expect([unmapped, mapped]).to.deep.equal([true, true]);
  });

  it('reads bypass and status as changed only after the change (R6)', async () => {
    const { iommu, driver, device, other, port } = await setUp();
    const bypass = virtio.CONFIG_REG + format.CONFIG_BYPASS;
    await driver.setBypass(true);
    other.notifier.hold();
    const work = iommu.writeRegister(bypass, 1, 0n);
    expect(iommu.readRegister(bypass, 1)).to.equal(1n);
    other.notifier.release();
    await work;
    expect(iommu.readRegister(bypass, 1)).to.equal(0n);
    await driver.attach(DEVICE, driver.createDomain());
    device.notifier.hold();
    await port.write(virtio.STATUS_REG, 4, 0n);
    expect(iommu.readRegister(virtio.STATUS_REG, 4)).to.not.equal(0n);
    device.notifier.release();
    await yieldTurn();
    expect(iommu.readRegister(virtio.STATUS_REG, 4)).to.equal(0n);
    expect(device.space.kind).to.equal('blocked');
  });

  it('times out when the device does not answer', async () => {
    const { driver, device } = await setUp({ timeoutMs: 500 });
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    await domain.map(IOVA, 0, PAGE_SIZE, PERM_RW);
    device.notifier.hold();
    expect(await rejection(domain.unmap(IOVA, PAGE_SIZE))).to.be.instanceOf(RequestTimeout);
    device.notifier.release();
  });

  it('refuses a negative guest address, which the device would take for one of 64 bits', async () => {
    const { driver } = await setUp();
    const refused = await rejection(driver.createDomain().map(IOVA, 0x8100_0000 & ~0xf, PAGE_SIZE, PERM_RW));
    expect(refused).to.be.instanceOf(VirtioIommuError);
    expect((refused as Error).message).to.include('to 0x-7f000000 is not a range of 4096-byte pages');
  });

  it('maps up to the mapping limit, and no more', async () => {
    const { driver } = await setUp({ mappingLimit: 2 });
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    await domain.map(IOVA, 0, PAGE_SIZE, PERM_RW);
    await domain.map(IOVA + PAGE_SIZE, 0, PAGE_SIZE, PERM_RW);
    const beyond = await rejection(domain.map(IOVA + 2 * PAGE_SIZE, 0, PAGE_SIZE, PERM_RW));
    expect((beyond as VirtioIommuError).status).to.equal('NOMEM');
    await domain.unmap(IOVA, PAGE_SIZE);
    await domain.map(IOVA, 0, PAGE_SIZE, PERM_RW);
  });

  it('yields to other tasks when one kick causes much work', async () => {
    const { ram, port, pages, driver, completions, device } = await setUp();
    const domain = driver.createDomain();
    await driver.attach(OTHER, domain);
    const count = 4096;
    await domain.mapAll(
      Array.from({ length: count }, (_, i) => ({
        iova: IOVA + 2 * i * PAGE_SIZE,
        gpa: i * PAGE_SIZE,
        size: PAGE_SIZE,
        perm: PERM_RW,
      })),
    );
    const queue = new RequestQueue(port, ram, pages, 2000);
    await queue.install();
    const moves = [attachRequest(domain.id, DEVICE, 0), detachRequest(domain.id, DEVICE)];
    const few = Array.from({ length: BATCH_LIMIT / 2 }, () => moves).flat();
    await queue.submit(few.slice(0, 2), 'one move');
    expect(completions, 'one turn').to.have.length(0);
    // Each ATTACH replays the whole domain.
    expect((few.length / 2) * count).to.equal(TURN_WORK_LIMIT);
    expect(new Set(await queue.submit(few, 'many moves'))).to.deep.equal(new Set([format.S_OK]));
    expect(completions, 'the rest after another turn').to.have.length(1);
    expect(device.notifier.mappings).to.have.length(0);
  });

  it('detects a missing device', async () => {
    const ram = smallRam(RAM_BYTES);
    const port: RegisterPort = { write: () => {}, read: async () => 0xffffffffn };
    const made = VirtioIommuDriver.create(port, ram, new PageAllocator(ram, MIB, MIB));
    expect(await rejection(made)).to.be.instanceOf(VirtioIommuError);
  });

  it('removes all state of an unplugged function', async () => {
    const { driver, iommu } = await setUp();
    await driver.attach(DEVICE, driver.createDomain());
    iommu.detach(DEVICE);
    expect(iommu.domainOf(DEVICE)).to.equal(undefined);
    expect((await rejection(driver.attach(DEVICE, driver.createDomain()))).message).to.match(/NOENT/);
  });

  it('refuses invalid limits', () => {
    const ram = smallRam(RAM_BYTES);
    for (const wrong of [{ granule: 2048 }, { granule: 5000 }, { awBits: 31 }, { awBits: 65 }])
      expect(() => new VirtioIommu({ ram, ...wrong }), JSON.stringify(wrong)).to.throw(RangeError);
    for (const right of [{ granule: 4096 }, { granule: 65536 }, { awBits: 32 }, { awBits: 64 }])
      expect(new VirtioIommu({ ram, ...right }).name).to.equal('virtio');
  });
});
