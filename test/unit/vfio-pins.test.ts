/**
 * Pins and dirty pages of the /dev/vfio calls, where several pins meet in one page or a process has ended.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { ProcessMemory } from '../../src/conformance/vfio/process-memory.ts';
import { PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { type DeviceOps, VfioContainer, VfioGroup } from '../../src/vfio/uapi/group.ts';
import { dmaRw, pinPages, unpinPages } from '../../src/vfio/uapi/mdev-access.ts';
import type { Type1Violation } from '../../src/vfio/uapi/type1.ts';
import * as uapi from '../../src/vfio/uapi/vfio-uapi.ts';

const A = 0x100000n;
const BUF = 0x7f00_0000_0000n;
const READ_ONLY = 0x7f00_8000_0000n;
const PAGE = 4096n;
const PAGES = 8n;

/** An open device of a container with PAGES mapped pages. */
function rig(ops: DeviceOps = { dmaUnmap: () => {} }) {
  const violations: Type1Violation[] = [];
  const container = new VfioContainer({ onViolation: (violation) => violations.push(violation) });
  const memory = ProcessMemory.fresh();
  const group = new VfioGroup('m0', ops);
  group.open();
  group.setContainer(container);
  container.setIommu(uapi.Extension.type1v2);
  const device = group.getDevice('m0');
  const iommu = container.requireIommu();
  iommu.map({ flags: uapi.MAP_READ | uapi.MAP_WRITE, iova: A, size: PAGES * PAGE, vaddr: BUF }, memory);
  /** Returns the numbers of the dirty pages, and clears them. */
  const dirty = () => {
    const bitmap = { pgsize: PAGE, size: 8n, data: new Uint8Array(8) };
    iommu.dirtyBitmap({ iova: A, size: PAGES * PAGE, bitmap });
    return [0, 1, 2, 3, 4, 5, 6, 7].filter((page) => (bitmap.data[0] as number) & (1 << page));
  };
  return {
    ...{ violations, container, memory, group, device, iommu, dirty },
    pin: (page: number, perm = PERM_RW, offset = 0n, count = 1) =>
      pinPages(iommu, device, A + BigInt(page) * PAGE + offset, count, perm),
    unpin: (page: number, offset = 0n) => unpinPages(iommu, device, A + BigInt(page) * PAGE + offset, 1),
    unmap: (bitmap?: Uint8Array) =>
      iommu.unmap({
        flags: bitmap ? uapi.UNMAP_DIRTY_BITMAP : 0,
        ...{ iova: A, size: PAGES * PAGE },
        ...(bitmap && { bitmap: { pgsize: PAGE, size: 8n, data: bitmap } }),
      }),
  };
}

describe('dirty pages of the calls', () => {
  it('include a page until its last pin is dropped, whether it was pinned before or after the start', () => {
    const { iommu, dirty, pin, unpin } = rig();
    pin(1);
    pin(1);
    iommu.startTracking();
    pin(2);
    pin(3);
    unpin(3);
    expect([dirty(), dirty()]).to.deep.equal([
      [1, 2, 3],
      [1, 2],
    ]);
    unpin(1);
    expect([dirty(), dirty()], 'of two pins one is left').to.deep.equal([
      [1, 2],
      [1, 2],
    ]);
    unpin(1);
    expect([dirty(), dirty()], 'pinned at the last report').to.deep.equal([[1, 2], [2]]);
  });

  it('need a bitmap whose stated size holds them, however large its memory is', () => {
    const { iommu } = rig();
    iommu.startTracking();
    const get = (size: bigint) => () =>
      iommu.dirtyBitmap({
        ...{ iova: A, size: PAGES * PAGE },
        bitmap: { pgsize: PAGE, size, data: new Uint8Array(16) },
      });
    expect(get(7n)).to.throw('EINVAL');
    get(8n)();
  });

  it('include exactly the pages that dma_rw writes', () => {
    const { iommu, dirty, memory } = rig();
    iommu.startTracking();
    dmaRw(iommu, A, new Uint8Array(4096), true, memory);
    dmaRw(iommu, A + 3n * PAGE - 1n, new Uint8Array(2), true, memory);
    dmaRw(iommu, A + 6n * PAGE, new Uint8Array(4096), false, memory);
    expect([dirty(), dirty()]).to.deep.equal([[0, 2, 3], []]);
  });

  it('of an unmap include those that a device writes while it unpins', () => {
    const parts = rig({
      dmaUnmap: () => {
        dmaRw(parts.iommu, A + 5n * PAGE, new Uint8Array(1), true, undefined);
        parts.unpin(1);
      },
    });
    parts.iommu.startTracking();
    parts.pin(1);
    const bitmap = new Uint8Array(8);
    expect(parts.unmap(bitmap)).to.equal(PAGES * PAGE);
    expect(bitmap[0]).to.equal((1 << 1) | (1 << 5));
  });
});

describe('pins of the calls', () => {
  it('at two offsets of a page are apart, and each holds the page', () => {
    const { iommu, pin, unpin, memory } = rig();
    pin(1);
    pin(1, PERM_RW, 8n);
    expect(memory.locked).to.equal(2);
    const pages = () => [...([...iommu.mappings.values()][0]?.pins.pages() ?? [])].length;
    unpin(1, 8n);
    expect([memory.locked, pages()]).to.deep.equal([1, 1]);
    unpin(1, 8n);
    expect([memory.locked, pages()], 'there is no such pin').to.deep.equal([1, 1]);
    unpin(1);
    expect([memory.locked, pages()]).to.deep.equal([0, 0]);
  });

  it('of several pages leave none when one fails', () => {
    const { iommu, pin, memory } = rig();
    memory.unmap(Number(BUF / PAGE) + 2, 1);
    expect(() => pin(0, PERM_READ, 0n, 4)).to.throw('EFAULT');
    expect([memory.locked, [...iommu.mappings.values()][0]?.pins.size]).to.deep.equal([0, 0]);
  });

  it('need the right of the mapping, whatever they ask for', () => {
    const { iommu, device, memory } = rig();
    const B = 0x200000n;
    iommu.map({ flags: uapi.MAP_READ | uapi.MAP_WRITE, iova: B, size: PAGE, vaddr: READ_ONLY }, memory);
    expect(() => pinPages(iommu, device, B, 1, PERM_READ)).to.throw('EFAULT');
  });

  it('do not change the locked memory of a process that has ended', () => {
    const { pin, unpin, memory } = rig();
    pin(1);
    memory.alive = false;
    unpin(1);
    expect(memory.locked).to.equal(1);
  });

  it('can still be dropped when the last file of the device is closed', () => {
    const parts = rig({ dmaUnmap: () => {}, close: () => parts.unpin(1) });
    parts.pin(1);
    let wasOpen = false;
    const unregister = parts.iommu.unregister.bind(parts.iommu);
    parts.iommu.unregister = (device) => {
      wasOpen = parts.memory.locked === 0;
      unregister(device);
    };
    parts.device.close();
    expect([wasOpen, parts.memory.locked, parts.violations]).to.deep.equal([true, 0, []]);
  });

  it('that are left when the last group leaves are reported, each page', () => {
    const { pin, device, group, violations } = rig();
    pin(1);
    device.close();
    group.close();
    expect(violations).to.deep.equal([
      { kind: 'pins-left', detail: '1 pages of 0x100000 +0x8000 are still pinned' },
    ]);
  });

  it('of a device that ignores every request are dropped, and it is not asked again', () => {
    let asked = 0;
    const { iommu, pin, unmap, memory, violations, device } = rig({
      dmaUnmap: () => {
        asked++;
      },
    });
    pin(1);
    expect(unmap()).to.equal(PAGES * PAGE);
    expect([memory.locked, violations.map(({ kind }) => kind)]).to.deep.equal([0, ['never-unpins']]);
    expect([device.quarantined === '', iommu.canAsk, asked > 1]).to.deep.equal([false, false, true]);
  });
});
