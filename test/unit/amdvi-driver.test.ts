/**
 * The guest's AMD-Vi driver with the model, in one process.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import * as amdvi from '../../src/abi/amdvi.ts';
import {
  AmdViDriver,
  AmdViDriverError,
  type AmdViDriverOptions,
  SwitchTimeout,
} from '../../src/guest/iommu/amdvi/driver.ts';
import { InvalidationTimeout } from '../../src/guest/iommu/command-ring.ts';
import { IovaInUse, MappingRangeError, PartialUnmap } from '../../src/guest/iommu/mapping-errors.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import type { RegisterPort } from '../../src/guest/register-port.ts';
import {
  hex,
  type Iova,
  PAGE_1G,
  PAGE_2M,
  PERM_READ,
  PERM_RW,
  PERM_WRITE,
} from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { AmdViIommu, type AmdViOptions } from '../../src/viommu/amdvi/iommu.ts';
import { MIB, RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const DEVICES = [0x20, 0x108] as const;
const [DEVICE, OTHER] = DEVICES;
const IDENTITY = ['0x0>0x0+0x2000000/3'];

/** A port without delay. With `delayed`, each write arrives a turn later, as through a ring. */
class LocalPort implements RegisterPort {
  /** Drops the writes of a register. */
  dropped: number | undefined;
  readonly #iommu: AmdViIommu;
  readonly #delayed: boolean;

  constructor(iommu: AmdViIommu, delayed: boolean) {
    this.#iommu = iommu;
    this.#delayed = delayed;
  }

  async write(offset: number, size: 4 | 8, value: bigint): Promise<void> {
    if (this.#delayed) await yieldTurn();
    if (offset !== this.dropped) this.#iommu.writeRegister(offset, size, value);
  }

  async read(offset: number, size: 4 | 8): Promise<bigint> {
    return this.#iommu.readRegister(offset, size);
  }
}

interface SetUpOptions extends Partial<AmdViOptions> {
  readonly delayed?: boolean;
  readonly driver?: AmdViDriverOptions;
}

async function setUp(options: SetUpOptions = {}) {
  const ram = smallRam();
  const iommu = new AmdViIommu({ ...options, ram });
  const port = new LocalPort(iommu, options.delayed ?? false);
  const pages = new PageAllocator(ram, MIB, 4 * MIB);
  const [first, second] = DEVICES.map((id) => {
    const notifier = new RecordingNotifier(ram);
    const space = new DeviceAddressSpace(id, notifier, ram.regions);
    iommu.attach(space);
    return { notifier, space };
  }) as [
    { notifier: RecordingNotifier; space: DeviceAddressSpace },
    { notifier: RecordingNotifier; space: DeviceAddressSpace },
  ];
  const driver = new AmdViDriver(port, ram, pages, DEVICES, { timeoutMs: 2000, ...options.driver });
  await driver.start();
  return { ram, iommu, port, pages, driver, first, second };
}

const held = (notifier: RecordingNotifier): string[] =>
  notifier.mappings.map((m) => `${hex(m.iova)}>${hex(m.gpa)}+${hex(m.size)}/${m.perm}`);

/** Returns the NextLevel of the lowest entry for an IOVA below 1 GiB. */
function nextLevelOf(ram: GuestRam, root: number, iova: number): number {
  let table = root;
  for (let level = 4; level > 1; level--) {
    const low = ram.read32(table + (Math.floor(iova / amdvi.spanOfLevel(level)) % 512) * 8);
    table = low - (low % 4096);
  }
  return (ram.read32(table + (Math.floor(iova / 4096) % 512) * 8) >>> amdvi.NEXT_LEVEL_SHIFT) & 7;
}

/** Resolves with the error of `work`. */
const failure = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => undefined,
    (error: unknown) => error,
  );

for (const delayed of [false, true])
  for (const quirks of ['spec', 'qemu'] as const)
    describe(`AMD-Vi driver, ${delayed ? 'slow' : 'fast'} registers, quirks: ${quirks}`, () => {
      const options = { delayed, quirks };

      it('attaches a device to a domain, maps, unmaps and detaches', async () => {
        const { driver, pages, first } = await setUp(options);
        const before = pages.live;
        const domain = driver.createDomain();
        await driver.attach(DEVICE, domain);
        await domain.map(0x5000, 0x800000, 0x1000, PERM_RW);
        expect(first.space.kind).to.equal('system');
        await driver.enableTranslation();
        expect(held(first.notifier)).to.deep.equal(['0x5000>0x800000+0x1000/3']);
        await domain.map(0x1000, 0x801000, 0x1000, PERM_READ);
        await domain.map(0x7000, 0x803000, 0x1000, PERM_WRITE);
        expect(held(first.notifier)).to.deep.equal([
          '0x1000>0x801000+0x1000/1',
          '0x5000>0x800000+0x1000/3',
          '0x7000>0x803000+0x1000/2',
        ]);
        expect(await domain.unmap(0, 0x6000)).to.equal(0x2000);
        expect(held(first.notifier)).to.deep.equal(['0x7000>0x803000+0x1000/2']);
        expect(await domain.unmap(0, 0x10000)).to.equal(0x1000);
        await driver.detach(DEVICE);
        expect(first.space.kind).to.equal('blocked');
        await driver.destroyDomain(domain);
        expect(pages.live).to.equal(before);
        await driver.disableTranslation();
        expect(held(first.notifier)).to.deep.equal(IDENTITY);
      });

      it('switches pass-through and domains live, each device alone', async () => {
        const { driver, first, second } = await setUp(options);
        const [a, b] = [driver.createDomain(), driver.createDomain()];
        for (const id of DEVICES) await driver.attach(id, a);
        await a.map(0x1000, 0x800000, 0x1000, PERM_RW);
        await b.map(0x1000, 0x900000, 0x1000, PERM_RW);
        await driver.enableTranslation();
        await driver.setPassThrough(OTHER);
        expect(held(second.notifier)).to.deep.equal(IDENTITY);
        expect(held(first.notifier)).to.deep.equal(['0x1000>0x800000+0x1000/3']);
        await driver.attach(OTHER, b);
        expect(held(second.notifier)).to.deep.equal(['0x1000>0x900000+0x1000/3']);
        await driver.attach(DEVICE, b);
        expect(held(first.notifier)).to.deep.equal(held(second.notifier));
      });

      it('submits more commands than the buffer holds', async () => {
        const { driver, first } = await setUp(options);
        const domain = driver.createDomain();
        await driver.attach(DEVICE, domain);
        await driver.enableTranslation();
        await Promise.all(
          Array.from({ length: 600 }, (_, i) => domain.map(0x2000 * i, 0x800000, 0x1000, PERM_RW)),
        );
        expect(first.notifier.mappings).to.have.length(600);
        await Promise.all(Array.from({ length: 600 }, (_, i) => domain.unmap(0x2000 * i, 0x1000)));
        expect(first.notifier.mappings).to.have.length(0);
      });

      it('lets maps and unmaps during a switch take effect with it', async () => {
        const { driver, first } = await setUp(options);
        const domain = driver.createDomain();
        await driver.attach(DEVICE, domain);
        await domain.map(0x9000, 0x900000, 0x1000, PERM_RW);
        await Promise.all([
          driver.enableTranslation(),
          domain.map(0x1000, 0x800000, 0x1000, PERM_RW),
          domain.unmap(0x9000, 0x1000),
        ]);
        expect(held(first.notifier)).to.deep.equal(['0x1000>0x800000+0x1000/3']);
        await Promise.all([driver.disableTranslation(), domain.unmap(0x1000, 0x1000)]);
        expect(held(first.notifier)).to.deep.equal(IDENTITY);
        await driver.enableTranslation();
        expect(held(first.notifier)).to.deep.equal([]);
      });
    });

describe('AMD-Vi driver', () => {
  it('maps with the largest pages that alignment allows, and splits those between the default sizes', async () => {
    const { driver, first, ram } = await setUp();
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    await driver.enableTranslation();
    await domain.map(0x10000, 0x810000, 0x8000, PERM_RW);
    expect(nextLevelOf(ram, domain.root, 0x13000)).to.equal(amdvi.NEXT_LEVEL_SIZED);
    await domain.map(PAGE_2M, PAGE_2M * 2, PAGE_2M * 2, PERM_RW);
    expect(held(first.notifier)).to.deep.equal([
      '0x10000>0x810000+0x8000/3',
      '0x200000>0x400000+0x200000/3',
      '0x400000>0x600000+0x200000/3',
    ]);
    expect(await domain.unmap(0x12000, 0x1000)).to.equal(0x1000);
    // Hardware may cache the whole page from any entry that encodes it.
    expect(nextLevelOf(ram, domain.root, 0x13000)).to.equal(amdvi.NEXT_LEVEL_PAGE);
    expect(held(first.notifier).slice(0, 7)).to.deep.equal(
      [0x10, 0x11, 0x13, 0x14, 0x15, 0x16, 0x17].map(
        (page) => `0x${page.toString(16)}000>0x8${page.toString(16)}000+0x1000/3`,
      ),
    );
    expect(await failure(domain.unmap(PAGE_2M, 0x1000))).to.be.instanceOf(PartialUnmap);
    expect(await failure(domain.map(0x17000, 0x900000, 0x2000, PERM_RW))).to.be.instanceOf(IovaInUse);
    expect(await failure(domain.map(2 ** 48, 0x900000, 0x1000, PERM_RW))).to.be.instanceOf(MappingRangeError);
    expect(await failure(domain.map(0x800000, 0x900001, 0x1000, PERM_RW))).to.be.instanceOf(
      MappingRangeError,
    );
    expect(await failure(domain.map(0x800000, 0x900000, 0x1000, 0))).to.be.instanceOf(MappingRangeError);
    expect(await domain.unmap(0, PAGE_1G)).to.equal(0x7000 + 2 * PAGE_2M);
    expect(held(first.notifier)).to.deep.equal([]);
  });

  it('reads the first fault of a device and drops the others, also after an overflow of the log', async () => {
    const { driver, iommu } = await setUp();
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    await domain.map(0x5000, 0x800000, 0x1000, PERM_READ);
    await driver.enableTranslation();
    expect(await driver.readFaults()).to.equal(undefined);
    iommu.translate(DEVICE, 0x5000 as Iova, true);
    iommu.translate(OTHER, 0x6000 as Iova, false);
    const expected = { requesterId: DEVICE, iova: 0x5000, write: true, reason: amdvi.EVENT.IO_PAGE_FAULT };
    expect(await driver.readFaults()).to.deep.equal(expected);
    expect(await driver.readFaults()).to.equal(undefined);
    for (const write of [true, false]) {
      iommu.translate(OTHER, 0x6000 as Iova, write);
      expect(await driver.readFaults()).to.include({ requesterId: OTHER, iova: 0x6000, write });
    }
    for (let i = 0; i < 300; i++) iommu.translate(OTHER, 0x7000 as Iova, false);
    expect(await driver.readFaults()).to.include({ requesterId: OTHER, iova: 0x7000 });
    iommu.translate(DEVICE, 0x5000 as Iova, true);
    expect(await driver.readFaults()).to.deep.equal(expected);
  });

  it('refuses hardware that cannot translate, a device beyond its table, and a domain in use', async () => {
    expect(await failure(setUp({ dmaTranslation: false }))).to.be.instanceOf(AmdViDriverError);
    const { driver } = await setUp();
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    expect(await failure(driver.destroyDomain(domain))).to.be.instanceOf(AmdViDriverError);
    const beyond = await failure(driver.attach(0x400, domain));
    expect(beyond).to.be.instanceOf(AmdViDriverError).with.property('message').that.includes('04:00.0');
  });

  it('times out with the state of the hardware', async () => {
    const { driver, port } = await setUp({ driver: { timeoutMs: 30 } });
    const domain = driver.createDomain();
    await driver.attach(DEVICE, domain);
    port.dropped = amdvi.CONTROL_REG;
    expect(await failure(driver.enableTranslation())).to.be.instanceOf(SwitchTimeout);
    port.dropped = undefined;
    await driver.enableTranslation();
    port.dropped = amdvi.COMMAND_TAIL_REG;
    const late = await failure(domain.map(0x1000, 0x800000, 0x1000, PERM_RW));
    expect(late).to.be.instanceOf(InvalidationTimeout).with.property('message').that.includes('status 0x18');
  });
});
