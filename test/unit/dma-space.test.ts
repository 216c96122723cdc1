/**
 * Rules that a served device asserts while its client maps and unmaps: one kind of mapping at a time (R2), and nothing left
 * of a range after its unmap (R6).
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { ClientMemory } from '../../src/vfio-user/client-memory.ts';
import { DmaSpace } from '../../src/vfio-user/dma-space.ts';
import type { GuestFile, GuestWindows } from '../../src/vfio-user/guest-windows.ts';
import { sideShown } from '../../src/vfio-user/identity-check.ts';
import { containerRig } from '../fixtures/container-fakes.ts';

const PAGE = 4096;
const FILE_BYTES = 512 * PAGE;
const FD = 7;

/** A space over a real container, with one memory file. `stale` is an IOVA that the pin table seems to keep. */
function rig(stale = -1) {
  const violations: string[] = [];
  const switches: string[] = [];
  const { container, user } = containerRig({ frames: 4 });
  const file: GuestFile = {
    ...{ offset: 0, length: FILE_BYTES, canRead: true, canWrite: true, fd: -1, key: '', maps: 0, used: 0 },
  };
  const windows = {
    open: () => file,
    addressOf: (_file: GuestFile, offset: number) => offset,
    fileAt: () => file,
  } as unknown as GuestWindows;
  const space = new DmaSpace({
    container,
    windows,
    client: new ClientMemory(),
    switched: (from, to) => void switches.push(`${from} to ${to}`),
    violation: (kind, detail) => void violations.push(`${kind}: ${detail}`),
    lookup: (iova) => (iova === stale ? 1 : user.reader.lookup(iova)),
    beforeUnmap: () => {},
  });
  const map = (iova: number, offset: number, size = PAGE) =>
    space.map({ address: BigInt(iova), size: BigInt(size), offset: BigInt(offset), flags: 3, fd: FD });
  return { space, map, violations, switches };
}

describe('the DMA space of a served device', () => {
  it('counts maps that arrive while those of the other kind are live', async () => {
    const { space, map, violations, switches } = rig();
    map(0, 0, FILE_BYTES);
    map(FILE_BYTES, PAGE);
    expect(space.mixedMaps).to.equal(1);
    await space.unmapAll();
    map(FILE_BYTES, PAGE);
    // Its IOVA may happen to be its offset.
    map(PAGE, PAGE);
    expect(space.mixedMaps).to.equal(1);
    // Three pages are no translation's form.
    map(4 * PAGE, 4 * PAGE, 3 * PAGE);
    expect(space.mixedMaps).to.equal(2);
    expect(violations).to.deep.equal([]);
    await space.leave();
    expect(switches).to.deep.equal([
      ...['blocked to system', 'system to iommu', 'iommu to system', 'system to blocked'],
    ]);
  });

  it('reports a range that the pin table still has after its unmap', async () => {
    const { space, map, violations } = rig(0x7000);
    map(0x4000, 0, 4 * PAGE);
    map(0x1_0000, 0);
    await space.unmap(0x1_0000n, BigInt(PAGE));
    expect(violations).to.deep.equal([]);
    await space.unmap(0x4000n, BigInt(4 * PAGE));
    expect(violations).to.deep.equal(['stale-map: IOVA 0x7000 still leads to memory after its unmap']);
  });

  it('knows RAM above 4 GiB of a large guest', () => {
    const gib = 2 ** 30;
    const shown = (iova: number, size: number, offset: number) =>
      sideShown({ iova, size, offset, hasFd: true }, 6 * gib);
    expect(shown(0, 2 * gib, 0)).to.equal('gpa');
    expect(shown(4 * gib, 4 * gib, 2 * gib)).to.equal('gpa');
    expect(shown(5 * gib, gib, 5 * gib)).to.equal('open');
    expect(shown(4 * gib, gib, 2 * gib)).to.equal('iova');
    expect(shown(0xffff_f000, 4096, 0x1000)).to.equal('iova');
  });
});
