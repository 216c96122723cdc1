/**
 * The container with fixed windows, alone and behind the vIOMMU.
 */

import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as spapr from '../../src/abi/spapr.ts';
import { BUID_HI, BUID_LO } from '../../src/abi/spapr-host-bridges.ts';
import { ContainerNotifier } from '../../src/coordinator/vm/container-notifier.ts';
import { type Iova, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { SpaprContainer, WINDOW_LIMIT } from '../../src/vfio/spapr-container.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { SpaprIommu } from '../../src/viommu/spapr/iommu.ts';
import { FakeBacking } from '../fixtures/container-fakes.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';

const LOW = { start: 0, size: 0x10000, pageShift: 12 };
const HIGH = { start: 2 ** 40, size: 2 ** 24, pageShift: 16 };

const rig = (...windows: (typeof LOW)[]) => {
  const container = new SpaprContainer(new PinTableWriter(64), new FakeBacking(16));
  for (const window of windows) container.createWindow(window);
  return container;
};

describe('container with fixed windows', () => {
  it('maps only inside its windows, in multiples of their pages', () => {
    const container = rig(LOW, HIGH);
    const map = (iova: number, vaddr: number, size: number) => () =>
      container.map(iova as Iova, vaddr, size, PERM_RW);
    map(0xf000, 0, 0x1000)();
    map(HIGH.start, 0x10000, 0x20000)();
    expect(map(0x10000, 0, 0x1000)).to.throw(
      'ENXIO: map of 0x10000 +0x1000: outside the windows (0x0 +0x10000, ',
    );
    expect(map(0x8000, 0, 0x9000), 'across the end').to.throw('ENXIO');
    expect(map(HIGH.start + HIGH.size, 0, 0x10000)).to.throw('ENXIO');
    for (const [iova, vaddr, size] of [
      [0x1000, 0, 0x10000],
      [0x100000, 0x1000, 0x10000],
      [0x100000, 0, 0x1000],
    ] as const)
      expect(map(HIGH.start + iova, vaddr, size)).to.throw('EINVAL: map of');
    expect(container.mapPages(0x4000 as Iova, Float64Array.of(0, 0x5000), 2, PERM_RW)).to.equal(true);
    expect(container.mapPages(0xe000 as Iova, Float64Array.of(0, 0, 0), 3, PERM_RW)).to.equal(false);
    expect(container.mapPages(HIGH.start as Iova, Float64Array.of(0), 1, PERM_RW)).to.equal(false);
    expect(container.liveMappings).to.equal(4);
  });

  it('maps batches of single pages only in windows of such pages', () => {
    const container = rig(LOW, HIGH);
    const vaddrs = Float64Array.of(0x3000, 0x1000);
    expect(container.mapPages(HIGH.start as Iova, vaddrs, 2, PERM_RW)).to.equal(false);
    expect(container.mapPages(0x10_0000 as Iova, vaddrs, 2, PERM_RW), 'outside').to.equal(false);
    expect(container.liveMappings).to.equal(0);
    expect(container.mapPages(0x4000 as Iova, vaddrs, 2, PERM_RW)).to.equal(true);
    expect(container.liveMappings).to.equal(2);
  });

  it('creates windows up to the limit, and refuses invalid and overlapping ones', () => {
    const container = rig(LOW);
    const create = (window: Partial<typeof LOW>) => () => container.createWindow({ ...HIGH, ...window });
    expect(create({ pageShift: 13 })).to.throw('EINVAL: page shift 13; accepted: 12, 16, 21, 24');
    expect(create({ size: 0x1000 })).to.throw('EINVAL');
    expect(create({ start: 0x11000 })).to.throw('EINVAL');
    expect(create({ start: 0, size: 0x20000 })).to.throw('EBUSY: window 0x0 +0x20000 overlaps 0x0 +0x10000');
    create({})();
    expect(container.windows).to.have.length(WINDOW_LIMIT);
    expect(create({ start: 2 ** 41 })).to.throw('ENOSPC: limit of 2 windows reached');
    expect(() => container.removeWindow(0x1000)).to.throw('EINVAL: no window begins at 0x1000');
  });

  it('removes a window with only its own mappings', async () => {
    const container = rig(LOW, HIGH);
    container.map(0 as Iova, 0, 0x10000, PERM_RW);
    container.map(HIGH.start as Iova, 0, 0x10000, PERM_RW);
    await container.setWindows([HIGH]);
    expect(container.windows).to.deep.equal([HIGH]);
    expect(container.liveMappings).to.equal(1);
    expect(() => container.map(0 as Iova, 0, PAGE_SIZE, PERM_RW)).to.throw('ENXIO');
    await container.setWindows([{ ...HIGH, pageShift: 12 }]);
    expect(container.liveMappings, 'another page size').to.equal(0);
  });

  it('follows the windows of its device’s bridge', async () => {
    const ram = smallRam(32 * MIB);
    const iommu = new SpaprIommu({
      ram,
      bridges: [{ dynamicWindowStart: 2 ** 40, busAddressLimit: 2 ** 48 }],
    });
    const container = new SpaprContainer(new PinTableWriter(64), ram);
    const space = new DeviceAddressSpace(8, new ContainerNotifier(container, ram), ram.regions);
    await iommu.attach(space);
    const shifts = () => container.windows.map(({ pageShift }) => pageShift);
    const unit = [0, BUID_HI, BUID_LO];
    expect(shifts()).to.deep.equal([12]);
    await iommu.rtas(spapr.CREATE_PE_DMA_WINDOW, [...unit, 16, 24], 4);
    expect(shifts()).to.deep.equal([12, 16]);
    const liobn = 0x8000_0001n;
    await iommu.hypercall(spapr.H_PUT_TCE, [liobn, 2n ** 40n, 0x10003n]);
    expect(container.mappingAt(2 ** 40)).to.deep.equal({
      iova: 2 ** 40,
      vaddr: 0x10000,
      size: 0x10000,
      perm: 3,
    });
    expect(space.audit()).to.deep.equal([]);
    await iommu.rtas(spapr.REMOVE_PE_DMA_WINDOW, [Number(liobn)], 1);
    expect([shifts(), container.liveMappings]).to.deep.equal([[12], 0]);
    await iommu.rtas(spapr.RESET_PE_DMA_WINDOW, unit, 1);
    expect(shifts()).to.deep.equal([12]);
  });
});
