/**
 * The guest's VT-d driver with the model, in one process.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import * as vtd from '../../src/abi/vtd.ts';
import { InvalidationTimeout } from '../../src/guest/iommu/command-ring.ts';
import type { UnmapRange } from '../../src/guest/iommu/guest-iommu.ts';
import { IovaInUse, MappingRangeError, PartialUnmap } from '../../src/guest/iommu/mapping-errors.ts';
import {
  CommandTimeout,
  type VtdDomain,
  VtdDriver,
  VtdDriverError,
  type VtdDriverOptions,
  type VtdMode,
} from '../../src/guest/iommu/vtd/driver.ts';
import { QUEUE_ENTRIES } from '../../src/guest/iommu/vtd/invalidation-queue.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import type { RegisterPort } from '../../src/guest/register-port.ts';
import type { Iova } from '../../src/memory/address.ts';
import { hex, PAGE_1G, PAGE_2M, PERM_READ, PERM_RW, PERM_WRITE } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { IntelIommu, type IntelIommuOptions } from '../../src/viommu/vtd/iommu.ts';
import { MIB, RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const DEVICE = 0x0108;

/** A port without delay. With `delayed`, each write arrives a turn later, as through a ring. */
class LocalPort implements RegisterPort {
  readonly writes: string[] = [];
  readonly #iommu: IntelIommu;
  readonly #delayed: boolean;

  constructor(iommu: IntelIommu, delayed: boolean) {
    this.#iommu = iommu;
    this.#delayed = delayed;
  }

  async write(offset: number, size: 4 | 8, value: bigint): Promise<void> {
    if (this.#delayed) await yieldTurn();
    this.writes.push(`${hex(offset)}=${value.toString(16)}`);
    this.#iommu.writeRegister(offset, size, value);
  }

  async read(offset: number, size: 4 | 8): Promise<bigint> {
    return this.#iommu.readRegister(offset, size);
  }
}

interface Setup {
  readonly ram: GuestRam;
  readonly iommu: IntelIommu;
  readonly port: LocalPort;
  readonly pages: PageAllocator;
  readonly notifier: RecordingNotifier;
  readonly space: DeviceAddressSpace;
  readonly driver: VtdDriver;
  attach(requesterId: number): RecordingNotifier;
}

interface SetupOptions extends Partial<IntelIommuOptions> {
  readonly driver?: VtdDriverOptions;
  readonly delayed?: boolean;
  readonly ram?: GuestRam;
  readonly Driver?: typeof VtdDriver;
}

/** A unit that supports every mode of the driver. */
const EVERY_MODE = {
  awBits: 48,
  cachingMode: true,
  scalable: true,
  firstStage: true,
  secondStage: true,
} as const;

async function setUpMode(mode: VtdMode, options: SetupOptions): Promise<Setup> {
  const ram = options.ram ?? smallRam();
  const iommu = new IntelIommu({ ...EVERY_MODE, ...options, ram });
  const port = new LocalPort(iommu, options.delayed ?? false);
  const pages = new PageAllocator(ram, MIB, 4 * MIB);
  const attach = (requesterId: number): [RecordingNotifier, DeviceAddressSpace] => {
    const notifier = new RecordingNotifier(ram);
    const space = new DeviceAddressSpace(requesterId, notifier, ram.regions);
    iommu.attach(space);
    return [notifier, space];
  };
  const [notifier, space] = attach(DEVICE);
  const driver = new (options.Driver ?? VtdDriver)(port, ram, pages, {
    timeoutMs: 2000,
    mode,
    ...options.driver,
  });
  await driver.start();
  return { ram, iommu, port, pages, notifier, space, driver, attach: (id) => attach(id)[0] };
}

const held = (notifier: RecordingNotifier): string[] =>
  notifier.mappings.map((m) => `${hex(m.iova)}>${hex(m.gpa)}+${hex(m.size)}/${m.perm}`);

/** Resolves with the error of `work`. */
const failure = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => undefined,
    (error: unknown) => error,
  );

for (const mode of ['legacy', 'second-stage', 'first-stage'] as const)
  describe(`VT-d driver, ${mode}`, () => {
    const setUp = (options: SetupOptions = {}) => setUpMode(mode, options);

    it('attaches a device to a domain, maps, unmaps and detaches', async () => {
      const { driver, notifier, space, pages } = await setUp();
      const before = pages.live;
      const domain = driver.createDomain();
      await driver.attach(DEVICE, domain);
      expect(space.kind).to.equal('system');
      await driver.enableTranslation();
      expect(space.kind).to.equal('iommu');
      await domain.map(0x1000, 0x800000, 0x3000, PERM_READ);
      expect(held(notifier)).to.deep.equal([
        '0x1000>0x800000+0x1000/1',
        '0x2000>0x801000+0x1000/1',
        '0x3000>0x802000+0x1000/1',
      ]);
      expect(await domain.unmap(0, 0x2000)).to.equal(0x1000);
      expect(await domain.unmap(0, 0x10000)).to.equal(0x2000);
      expect(held(notifier)).to.deep.equal([]);
      await driver.detach(DEVICE);
      expect(space.kind).to.equal('blocked');
      await driver.destroyDomain(domain);
      // The bus's context table stays allocated, and in scalable mode the device's PASID directory and table.
      expect(pages.live).to.equal(before + (mode === 'legacy' ? 1 : 3));
      await driver.disableTranslation();
      expect(held(notifier)).to.deep.equal(['0x0>0x0+0x2000000/3']);
    });

    it('switches pass-through and domains live, and the containers follow', async () => {
      const { driver, iommu, space, notifier } = await setUp();
      const [one, two] = [driver.createDomain(), driver.createDomain()];
      await one.map(0x1000, 0x800000, 0x1000, PERM_RW);
      await two.map(0x1000, 0x900000, 0x1000, PERM_RW);
      await driver.enableTranslation();
      await driver.attach(DEVICE, one);
      expect(held(notifier)).to.deep.equal(['0x1000>0x800000+0x1000/3']);
      await driver.setPassThrough(DEVICE);
      expect(space.kind).to.equal('system');
      await driver.attach(DEVICE, two);
      expect(held(notifier)).to.deep.equal(['0x1000>0x900000+0x1000/3']);
      expect(iommu.domainOf(DEVICE)).to.equal(two.id);
      expect(space.audit()).to.deep.equal([]);
      expect(await failure(driver.destroyDomain(two))).to.be.instanceOf(VtdDriverError);
    });

    it('uses the largest leaves that alignment allows', async () => {
      const { driver, iommu } = await setUp({ ram: smallRam(2048 * MIB) });
      const domain = driver.createDomain();
      await driver.attach(DEVICE, domain);
      await driver.enableTranslation();
      await domain.map(
        PAGE_1G - PAGE_2M - 0x1000,
        PAGE_1G - PAGE_2M - 0x1000,
        PAGE_1G + PAGE_2M + 0x1000,
        PERM_RW,
      );
      for (const iova of [PAGE_1G - PAGE_2M - 0x1000, PAGE_1G - PAGE_2M, PAGE_1G, 2 * PAGE_1G - 1])
        expect(iommu.translate(DEVICE, iova as Iova, true)).to.include({ ok: true, gpa: iova });
      expect(await failure(domain.unmap(PAGE_1G, PAGE_2M))).to.be.instanceOf(PartialUnmap);
      expect(await domain.unmap(0, 4 * PAGE_1G)).to.equal(PAGE_1G + PAGE_2M + 0x1000);
    });

    it('needs no invalidation after map without caching mode', async () => {
      const { driver, iommu, port } = await setUp({ cachingMode: false });
      const domain = driver.createDomain();
      await driver.attach(DEVICE, domain);
      await driver.enableTranslation();
      const writes = port.writes.length;
      await domain.map(0x1000, 0x800000, 0x1000, PERM_RW);
      expect(port.writes.length).to.equal(writes);
      expect(iommu.translate(DEVICE, 0x1000 as Iova, true)).to.include({ ok: true });
    });

    it('refuses invalid requests without any change', async () => {
      const { driver, pages } = await setUp();
      const domain = driver.createDomain();
      await domain.map(0x4000, 0x800000, 0x1000, PERM_RW);
      const live = pages.live;
      expect(await failure(domain.map(0x1000, 0x800000, 0x8000, PERM_RW))).to.be.instanceOf(IovaInUse);
      for (const [iova, size] of [
        [0x800, 0x1000],
        [0x1000, 0],
        [2 ** 48 - 0x1000, 0x2000],
      ] as const)
        expect(await failure(domain.map(iova, 0x800000, size, PERM_RW))).to.be.instanceOf(MappingRangeError);
      // JavaScript's & makes a BAR's address negative.
      const negative = 0x8100_0000 & ~0xf;
      expect(await failure(domain.map(0x1000, negative, 0x1000, PERM_RW))).to.be.instanceOf(
        MappingRangeError,
      );
      expect(pages.live).to.equal(live);
    });

    it('frees a table page only after the invalidation is complete', async () => {
      const { driver, notifier, pages } = await setUp();
      const domain = driver.createDomain();
      await driver.attach(DEVICE, domain);
      await driver.enableTranslation();
      await domain.map(0x1000, 0x800000, 0x1000, PERM_RW);
      const live = pages.live;
      notifier.hold();
      const unmapped = domain.unmap(0x1000, 0x1000);
      await yieldTurn();
      expect(pages.live).to.equal(live);
      notifier.release();
      await unmapped;
      expect(pages.live).to.equal(live - 3);
    });

    it('serves many flows at once, through a ring that fills up', async () => {
      const { driver, notifier, space, pages } = await setUp({ delayed: true });
      const domain = driver.createDomain();
      await driver.attach(DEVICE, domain);
      await driver.enableTranslation();
      const live = pages.live;
      const flow = async (i: number) => {
        const base = i * 64 * MIB;
        for (let round = 0; round < 3; round++) {
          await domain.map(base, 0x800000, 0x5000, PERM_RW);
          if (!notifier.mappingAt(base)) throw new Error(`flow ${i}: not mapped`);
          await domain.unmap(base, 0x5000);
          if (notifier.mappingAt(base)) throw new Error(`flow ${i}: still mapped`);
        }
      };
      await Promise.all(Array.from({ length: QUEUE_ENTRIES }, (_, i) => flow(i)));
      expect(held(notifier)).to.deep.equal([]);
      expect(space.audit()).to.deep.equal([]);
      expect(pages.live).to.equal(live);
    });

    it('keeps several devices of one domain equal', async () => {
      const { driver, notifier, attach } = await setUp();
      const other = attach(DEVICE + 1);
      const domain = driver.createDomain();
      await Promise.all([driver.attach(DEVICE, domain), driver.attach(DEVICE + 1, domain)]);
      await driver.enableTranslation();
      await domain.mapAll(
        Array.from({ length: 40 }, (_, i) => ({
          iova: i * 0x10000,
          gpa: 0x800000,
          size: 0x1000,
          perm: PERM_RW,
        })),
      );
      expect(held(other)).to.deep.equal(held(notifier));
      expect(held(other)).to.have.length(40);
    });

    it('names an invalidation that does not complete, and leaks its tables', async () => {
      const { driver, notifier, pages } = await setUp({ driver: { timeoutMs: 500 } });
      const domain = driver.createDomain();
      await driver.attach(DEVICE, domain);
      await driver.enableTranslation();
      await domain.map(0x1000, 0x800000, 0x1000, PERM_RW);
      const live = pages.live;
      notifier.hold();
      const error = await failure(domain.unmap(0x1000, 0x1000));
      expect(error).to.be.instanceOf(InvalidationTimeout);
      expect((error as Error).message).to.match(
        /IOTLB invalidation of domain 2 not completed within 500 ms \(IQH/,
      );
      expect(pages.live).to.equal(live);
      expect(await failure(driver.disableTranslation())).to.be.instanceOf(CommandTimeout);
      notifier.release();
      await yieldTurn();
      await driver.enableTranslation();
      await domain.map(0x1000, 0x800000, 0x1000, PERM_RW);
      expect(notifier.mappings).to.have.length(1);
    });

    it('reads and clears the recorded fault', async () => {
      const { driver, iommu } = await setUp();
      await driver.attach(DEVICE, driver.createDomain());
      await driver.enableTranslation();
      expect(await driver.readFaults()).to.equal(undefined);
      iommu.translate(DEVICE, 0x7123 as Iova, true);
      expect(await driver.readFaults()).to.deep.equal({
        requesterId: DEVICE,
        iova: 0x7000,
        write: true,
        reason: mode === 'first-stage' ? vtd.FAULT.FS_NOT_PRESENT : vtd.FAULT.WRITE,
      });
      expect(await driver.readFaults()).to.equal(undefined);
      expect(iommu.readRegister(vtd.FSTS_REG, 4)).to.equal(0n);
    });

    it('leaves a stale mapping when a subclass skips an invalidation', async () => {
      class Skipping extends VtdDriver {
        skips = false;
        protected override submitInvalidation(
          domain: VtdDomain,
          ranges: readonly UnmapRange[],
        ): Promise<void> {
          return this.skips ? Promise.resolve() : super.submitInvalidation(domain, ranges);
        }
      }
      const { driver, space } = await setUp({ Driver: Skipping });
      const domain = driver.createDomain();
      await driver.attach(DEVICE, domain);
      await driver.enableTranslation();
      await domain.map(0x1000, 0x800000, 0x1000, PERM_RW);
      (driver as Skipping).skips = true;
      await domain.unmap(0x1000, 0x1000);
      expect(space.audit()).to.have.length(1);
    });

    it('initialises a unit that an earlier driver left translating', async () => {
      const { driver, iommu, ram, space } = await setUp();
      await driver.attach(DEVICE, driver.createDomain());
      await driver.enableTranslation();
      const next = await VtdDriver.create(
        new LocalPort(iommu, false),
        ram,
        new PageAllocator(ram, 8 * MIB, MIB),
      );
      expect(space.kind).to.equal('system');
      await next.enableTranslation();
      expect(space.kind).to.equal('blocked');
    });
  });

describe('VT-d driver modes', () => {
  it('are refused with the missing hardware features', async () => {
    const unit = { scalable: false, firstStage: false, secondStage: false };
    const errors = await Promise.all([
      failure(setUpMode('second-stage', unit)),
      failure(setUpMode('first-stage', { ...unit, scalable: true, secondStage: true })),
      failure(setUpMode('first-stage', { driver: { levels: 3 } })),
    ]);
    for (const error of errors) expect(error).to.be.instanceOf(VtdDriverError);
    expect(errors.map((error) => (error as Error).message)).to.deep.equal([
      'the hardware has no scalable mode (ECAP.SMTS), no second-stage translation in scalable mode (ECAP.SSTS)',
      'the hardware has no first-stage translation (ECAP.FSTS)',
      'first-stage tables have 4 levels, not 3',
    ]);
  });

  it('map only readable pages in the lower half with first-stage tables', async () => {
    const { driver } = await setUpMode('first-stage', {});
    const domain = driver.createDomain();
    await domain.map(2 ** 47 - 0x1000, 0x800000, 0x1000, PERM_RW);
    expect(await failure(domain.map(2 ** 47, 0x800000, 0x1000, PERM_RW))).to.be.instanceOf(MappingRangeError);
    expect(await failure(domain.map(0x1000, 0x800000, 0x1000, PERM_WRITE))).to.be.instanceOf(
      MappingRangeError,
    );
  });

  it('use separate tables for both halves of a bus', async () => {
    const { driver, attach, iommu } = await setUpMode('first-stage', {});
    const domain = driver.createDomain();
    const others = [0x0188, 0x0208].map((requesterId) => ({ requesterId, notifier: attach(requesterId) }));
    await driver.enableTranslation();
    for (const { requesterId, notifier } of others) {
      expect(held(notifier)).to.deep.equal([]);
      await driver.attach(requesterId, domain);
    }
    await domain.map(0x1000, 0x800000, 0x1000, PERM_READ);
    for (const { requesterId, notifier } of others) {
      expect(held(notifier)).to.deep.equal(['0x1000>0x800000+0x1000/1']);
      expect(iommu.translate(requesterId, 0x1000 as Iova, true)).to.include({ reason: vtd.FAULT.FS_WRITE });
    }
    await driver.detach(0x0188);
    expect(iommu.translate(0x0188, 0x1000 as Iova, false)).to.include({
      reason: vtd.FAULT.PASID_NOT_PRESENT,
    });
    expect(held(others[0]?.notifier as RecordingNotifier)).to.deep.equal([]);
  });
});
