/**
 * The errno of each VFIO call at its limit and one beyond, and the lifetimes of container, group and device.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { ProcessMemory } from '../../src/conformance/vfio/process-memory.ts';
import { type Callback, TestDriver } from '../../src/conformance/vfio/test-driver.ts';
import { VfioError } from '../../src/vfio/errors.ts';
import { VfioContainer, VfioGroup } from '../../src/vfio/uapi/group.ts';
import { type Type1Violation, UNMAP_REQUESTS } from '../../src/vfio/uapi/type1.ts';
import * as uapi from '../../src/vfio/uapi/vfio-uapi.ts';

const A = 0x100000n;
const BUF = 0x7f00_0000_0000n;
const HOLE = 0x7f00_c000_0000n;
const PAGE = 4096n;
const RW = uapi.MAP_READ | uapi.MAP_WRITE;

function rig(type: number = uapi.Extension.type1v2, entryLimit = 65535) {
  const violations: Type1Violation[] = [];
  const callbacks: Callback[] = [];
  const container = new VfioContainer({ entryLimit, onViolation: (v) => violations.push(v) });
  const memory = ProcessMemory.fresh();
  const driver = new TestDriver(true, (callback) => callbacks.push(callback));
  const group = new VfioGroup('m0', driver);
  driver.device = group.device;
  group.open();
  group.setContainer(container);
  container.setIommu(type);
  const device = group.getDevice('m0');
  const iommu = container.requireIommu();
  const map = (iova: bigint, size: bigint, vaddr = BUF, flags = RW) =>
    iommu.map({ flags, iova, size, vaddr }, memory);
  return { violations, callbacks, container, memory, driver, group, device, iommu, map };
}

/** Returns the errno of a refused call, or `ok`. */
function outcome(call: () => unknown): string {
  try {
    call();
    return 'ok';
  } catch (error) {
    if (error instanceof VfioError) return error.errno;
    throw error;
  }
}

describe('VFIO calls at their limits', () => {
  it('refuse a map beyond the entry limit, after the check for overlaps', () => {
    const { map, iommu } = rig(uapi.Extension.type1v2, 2);
    map(A, PAGE);
    expect(outcome(() => map(A + PAGE, PAGE))).to.equal('ok');
    expect(iommu.getInfo(4096).caps?.available).to.equal(0);
    expect(outcome(() => map(A + 2n * PAGE, PAGE))).to.equal('ENOSPC');
    expect(outcome(() => map(A, PAGE))).to.equal('EEXIST');
  });

  it('map the last page of 2^64, and refuse one beyond, for the IOVA and the vaddr', () => {
    const top = 2n ** 64n - PAGE;
    const { map } = rig();
    expect(outcome(() => map(top, PAGE))).to.equal('ok');
    expect(outcome(() => map(top - PAGE, 3n * PAGE))).to.equal('EOVERFLOW');
    expect(outcome(() => map(A, PAGE, top))).to.equal('ok');
    expect(outcome(() => map(A + PAGE, 2n * PAGE, top))).to.equal('EOVERFLOW');
  });

  it('accept argsz of the exact structure, and refuse a byte less', () => {
    const { iommu, memory } = rig();
    const map = (argsz: number) => () =>
      iommu.map({ argsz, flags: RW, iova: A, size: PAGE, vaddr: BUF }, memory);
    const unmap = (argsz: number) => () => iommu.unmap({ argsz, flags: 0, iova: A, size: PAGE });
    expect([31, 32].map((argsz) => outcome(map(argsz)))).to.deep.equal(['EINVAL', 'ok']);
    expect([23, 24].map((argsz) => outcome(unmap(argsz)))).to.deep.equal(['EINVAL', 'ok']);
    expect([15, 16].map((argsz) => outcome(() => iommu.getInfo(argsz)))).to.deep.equal(['EINVAL', 'ok']);
    expect([7, 8].map((argsz) => outcome(() => iommu.dirtyPages({ argsz, flags: 1 })))).to.deep.equal([
      'EINVAL',
      'ok',
    ]);
  });

  it('return the required size of the capabilities in get info', () => {
    const { iommu } = rig();
    expect(iommu.getInfo(71)).to.include({ argsz: 72, capOffset: 0, caps: null });
    expect(iommu.getInfo(72)).to.include({ argsz: 72, capOffset: 24 });
  });

  it('pin 1 to 512 pages', () => {
    const { driver, map } = rig();
    map(A, 1024n * PAGE);
    const pin = (count: number) => outcome(() => driver.pin(A, count, 3));
    expect([-1, 0, 1, 512, 513].map(pin)).to.deep.equal(['E2BIG', 'EINVAL', 'ok', 'ok', 'E2BIG']);
  });

  it('pin up to the locked memory limit, and keep no pin beyond it', () => {
    const { driver, map, memory } = rig();
    memory.locksFreely = false;
    memory.lockLimit = 2;
    map(A, 4n * PAGE);
    expect(outcome(() => driver.pin(A, 2, 3))).to.equal('ok');
    expect(outcome(() => driver.pin(A + PAGE, 2, 3))).to.equal('ENOMEM');
    expect(memory.locked).to.equal(2);
  });

  it('return dirty bitmaps of whole 64-bit words, up to 2^31 - 1 pages', () => {
    const { iommu, map } = rig();
    iommu.startTracking();
    const get = (pages: bigint, bytes: number) =>
      outcome(() =>
        iommu.dirtyBitmap({
          iova: A,
          size: pages * PAGE,
          bitmap: { pgsize: PAGE, size: BigInt(bytes), data: new Uint8Array(bytes) },
        }),
      );
    expect([get(64n, 7), get(64n, 8), get(65n, 8), get(65n, 16)]).to.deep.equal([
      'EINVAL',
      'ok',
      'EINVAL',
      'ok',
    ]);
    const most = BigInt(uapi.DIRTY_PAGES_MAX);
    expect(outcome(() => map(0x1000_0000_0000n, most * PAGE))).to.equal('ok');
    expect(outcome(() => map(0x4000_0000_0000n, (most + 1n) * PAGE))).to.equal('EINVAL');
  });

  it('let a driver ignore UNMAP_REQUESTS - 1 unmap requests, not one more', () => {
    for (const [skipped, kinds] of [
      [UNMAP_REQUESTS - 1, []],
      [UNMAP_REQUESTS, ['never-unpins']],
    ] as const) {
      const { driver, map, iommu, violations, callbacks, device, memory } = rig();
      map(A, 4n * PAGE);
      driver.pin(A, 1, 3);
      driver.setPolicy('skip_first_n', skipped, true);
      expect(iommu.unmap({ flags: 0, iova: A, size: 4n * PAGE })).to.equal(4n * PAGE);
      expect(callbacks).to.have.length(UNMAP_REQUESTS);
      expect(violations.map(({ kind }) => kind)).to.deep.equal(kinds);
      expect(device.quarantined !== '').to.equal(kinds.length > 0);
      expect(memory.locked, 'no locked pages').to.equal(0);
      expect(outcome(() => driver.rw(A, new Uint8Array(1), false, memory))).to.equal(
        kinds.length > 0 ? 'ENODEV' : 'EINVAL',
      );
      device.close();
    }
  });
});

describe('VFIO calls that fail halfway', () => {
  it('undo a pin', () => {
    const { driver, map, memory } = rig();
    map(A, PAGE);
    map(A + PAGE, PAGE, HOLE);
    expect(outcome(() => driver.pin(A, 2, 3))).to.equal('EFAULT');
    expect(memory.locked).to.equal(0);
  });

  it('keep the written bytes before the error', () => {
    const { driver, map, memory } = rig();
    map(A, PAGE);
    const source = Uint8Array.of(1, 2, 3, 4);
    expect(outcome(() => driver.rw(A + PAGE - 2n, source, true, memory))).to.equal('EINVAL');
    const written = new Uint8Array(2);
    memory.copyOut(uapi.pageOf(BUF), 4094, written);
    expect([...written]).to.deep.equal([1, 2]);
  });
});

describe('container, group and device', () => {
  it('keep the group open as long as its device, and drop all maps with the last group', () => {
    const { container, group, device, map } = rig();
    map(A, PAGE);
    group.close();
    expect(outcome(() => group.open())).to.equal('EBUSY');
    expect(container.iommu?.mappings.size).to.equal(1);
    device.close();
    expect(container.iommu).to.equal(undefined);
    expect(outcome(() => group.open())).to.equal('ok');
  });

  it('keep the maps while a second group is open', () => {
    const { container, group, device, map } = rig();
    const other = new VfioGroup('m1', {});
    other.open();
    other.setContainer(container);
    map(A, PAGE);
    device.close();
    group.close();
    expect(container.iommu?.mappings.size).to.equal(1);
    other.unsetContainer();
    expect(container.iommu).to.equal(undefined);
  });

  it('remove a device with its last file', () => {
    const { group, device } = rig();
    let gone = false;
    device.remove(() => {
      gone = true;
    });
    expect(gone).to.equal(false);
    expect(outcome(() => group.getDevice('m0'))).to.equal('ENODEV');
    device.close();
    expect(gone).to.equal(true);
    expect(outcome(() => group.status())).to.equal('ENODEV');
  });

  it('refuse pins and dirty tracking in type1 v1', () => {
    const { driver, iommu, map } = rig(uapi.Extension.type1);
    map(A, PAGE);
    expect(outcome(() => driver.pin(A, 1, 3))).to.equal('EACCES');
    expect(outcome(() => iommu.dirtyPages({ flags: uapi.DIRTY_START }))).to.equal('EACCES');
  });
});
