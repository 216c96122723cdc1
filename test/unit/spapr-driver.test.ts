import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as spapr from '../../src/abi/spapr.ts';
import * as callPage from '../../src/abi/spapr-call-page.ts';
import { MappingRecord } from '../../src/conformance/mapping-record.ts';
import {
  HypercallError,
  HypercallTimeout,
  SpaprDriver,
  SpaprDriverError,
  WindowRangeError,
} from '../../src/guest/iommu/spapr/driver.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import type { RegisterPort } from '../../src/guest/register-port.ts';
import { PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { SpaprIommu, type SpaprIommuOptions } from '../../src/viommu/spapr/iommu.ts';
import { MIB, RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const DEVICE = 8;
const PAGE = 4096;

class Rig {
  readonly ram = smallRam(32 * MIB, 16 * MIB);
  readonly pages = new PageAllocator(this.ram, 0x10_0000, 4 * MIB);
  readonly record = new MappingRecord(this.ram);
  readonly iommu: SpaprIommu;
  readonly port: RegisterPort;

  constructor(options: Partial<SpaprIommuOptions> = {}) {
    this.iommu = new SpaprIommu({ ram: this.ram, ...options });
    this.port = {
      write: (offset, size, value) => {
        void this.iommu.writeRegister(offset, size, value);
      },
      read: async (offset, size) => this.iommu.readRegister(offset, size),
    };
    void this.iommu.attach(new DeviceAddressSpace(DEVICE, this.record, this.ram.regions));
  }

  driver(timeoutMs = 5000): Promise<SpaprDriver> {
    return SpaprDriver.create(this.port, this.ram, this.pages, { timeoutMs });
  }

  get held(): string[] {
    const held: string[] = [];
    this.record.forEachMapping(0, 2 ** 64, (iova, gpa, size, perm) => {
      held.push(`${iova.toString(16)}→${gpa.toString(16)} +${size.toString(16)} ${perm}`);
    });
    return held;
  }
}

async function rejection(work: Promise<unknown>): Promise<Error> {
  try {
    await work;
  } catch (error) {
    return error as Error;
  }
  throw new Error('did not reject');
}

describe('sPAPR guest driver', () => {
  it('maps and unmaps many pages in the default window with few calls', async () => {
    const rig = new Rig();
    const { defaultDomain } = await rig.driver();
    const before = rig.iommu.counters.hypercalls;
    await defaultDomain.map(0x10_0000, 0x20_0000, 1025 * PAGE, PERM_RW);
    expect(rig.iommu.counters.hypercalls - before).to.equal(3);
    expect(rig.record.size).to.equal(1025);
    expect(rig.record.mappingAt(0x10_0000 + 1024 * PAGE)).to.include({
      gpa: 0x20_0000 + 1024 * PAGE,
      perm: 3,
    });
    expect(await defaultDomain.unmap(0x10_0000 + PAGE, 2000 * PAGE)).to.equal(1024 * PAGE);
    expect(rig.held).to.deep.equal(['100000→200000 +1000 3']);
    await defaultDomain.mapAll([
      { iova: 0, gpa: 0x3000, size: PAGE, perm: PERM_READ },
      { iova: PAGE, gpa: 0x9000, size: PAGE, perm: PERM_RW },
    ]);
    expect(rig.held.slice(0, 2)).to.deep.equal(['0→3000 +1000 1', '1000→9000 +1000 3']);
  });

  it('refuses invalid mappings of the window without any change', async () => {
    const rig = new Rig();
    const { defaultDomain: domain } = await rig.driver();
    await domain.map(0x1000, 0x3000, PAGE, PERM_RW);
    for (const [iova, gpa, size] of [
      [0x1000, 0x4000, PAGE],
      [0, 0x4000, 2 * PAGE],
      [0x800, 0x4000, PAGE],
      [0, 0x4800, PAGE],
      [0, 0x4000, 0],
      [2 ** 30, 0x4000, PAGE],
      [2 ** 30 - PAGE, 0x4000, 2 * PAGE],
    ] as const)
      expect(await rejection(domain.map(iova, gpa, size, PERM_RW))).to.be.instanceOf(WindowRangeError);
    expect(rig.held).to.deep.equal(['1000→3000 +1000 3']);
    await domain.map(2 ** 30 - PAGE, 0x4000, PAGE, PERM_RW);
    const refused = await rejection(domain.map(0, 2 ** 40, PAGE, PERM_RW));
    expect(refused).to.be.instanceOf(HypercallError).and.have.property('ret', spapr.H_PARAMETER);
    await domain.map(0, 0x5000, PAGE, PERM_RW);
  });

  it('creates and removes windows of each page size, and a direct one over all of RAM', async () => {
    const rig = new Rig();
    const driver = await rig.driver();
    expect(await driver.query()).to.deep.equal({
      available: 1,
      largest: 2 ** 31,
      pageShifts: [12, 16, 21, 24],
    });
    const window = await driver.createWindow(16, 30);
    expect(window.window).to.deep.equal({ liobn: 0x8000_0001, start: 2 ** 59, size: 2 ** 30, pageShift: 16 });
    await window.map(2 ** 59 + 0x2_0000, 0x10_0000, 0x2_0000, PERM_READ);
    expect(rig.held).to.deep.equal(['800000000020000→100000 +10000 1', '800000000030000→110000 +10000 1']);
    expect(await rejection(driver.createWindow(16, 30))).to.be.instanceOf(SpaprDriverError);
    const large = await window.unmap(2 ** 59, 2 ** 30);
    expect(large, 'the whole window at once').to.equal(0x2_0000);
    await driver.removeWindow(window);
    expect(rig.held).to.deep.equal([]);
    const direct = await driver.createDirectWindow();
    expect(direct.window.pageShift, 'RAM ends are multiples of 16 MiB').to.equal(24);
    for (const { gpa, size } of rig.ram.regions)
      for (const at of [gpa, gpa + size - PAGE]) {
        const held = rig.record.mappingAt(2 ** 59 + at);
        expect(held && held.gpa + (2 ** 59 + at - held.iova)).to.equal(at);
      }
    await driver.reset();
    expect(rig.held).to.deep.equal([]);
  });

  it('serves more flows at once than call slots exist', async () => {
    const rig = new Rig();
    const { defaultDomain } = await rig.driver();
    const flows = Array.from({ length: 3 * callPage.CALL_SLOTS }, async (_, flow) => {
      for (let round = 0; round < 5; round++) {
        const iova = flow * 0x10000;
        await defaultDomain.map(iova, 0x20_0000 + flow * PAGE, PAGE, PERM_RW);
        expect(rig.record.mappingAt(iova)?.gpa).to.equal(0x20_0000 + flow * PAGE);
        expect(await defaultDomain.unmap(iova, PAGE)).to.equal(PAGE);
        expect(rig.record.mappingAt(iova)).to.equal(undefined);
      }
    });
    await Promise.all(flows);
    expect(rig.iommu.liveTces).to.equal(0);
  });

  it('waits for completion with a timeout', async () => {
    const rig = new Rig();
    const notifier = new RecordingNotifier(rig.ram);
    void rig.iommu.attach(new DeviceAddressSpace(DEVICE + 8, notifier, rig.ram.regions));
    const { defaultDomain } = await rig.driver(50);
    await defaultDomain.map(0, 0x3000, PAGE, PERM_RW);
    notifier.hold();
    const timeout = await rejection(defaultDomain.unmap(0, PAGE));
    expect(timeout).to.be.instanceOf(HypercallTimeout);
    expect(timeout.message).to.equal('hypercall 0x138 has not returned within 50 ms');
    notifier.release();
    expect(await rejection(defaultDomain.map(0, 0x3000, PAGE, PERM_RW))).to.be.instanceOf(WindowRangeError);
    await defaultDomain.map(PAGE, 0x3000, PAGE, PERM_RW);
  });

  it('detects that there is no hypervisor', async () => {
    const rig = new Rig();
    const port: RegisterPort = { write: () => {}, read: async () => 2n ** 64n - 1n };
    expect(await rejection(SpaprDriver.create(port, rig.ram, rig.pages))).to.be.instanceOf(SpaprDriverError);
  });
});
