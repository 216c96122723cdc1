/**
 * Pages mapped in one batch, compared with the same pages mapped one by one.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { type Iova, PAGE_2M, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import type { DmaMapping } from '../../src/vfio/mapping.ts';
import { type ContainerRig, containerRig } from '../fixtures/container-fakes.ts';

const held = ({ container }: ContainerRig): DmaMapping[] => {
  const seen: DmaMapping[] = [];
  container.forEach(0, 2 ** 48, (iova, size, vaddr, perm) => {
    seen.push({ iova: iova as Iova, size, vaddr, perm });
  });
  return seen;
};
/** Pages in an order without neighbours that could merge. */
const vaddrs = (count: number): Float64Array =>
  Float64Array.from({ length: count }, (_, i) => ((i * 7 + 3) % 1024) * PAGE_SIZE);

describe('batch of pages in a container', () => {
  it('equals single maps in a new leaf table, in an existing one, and in a complete one', async () => {
    for (const [first, count] of [
      [5, 100],
      [0, 512],
      [511, 1],
    ] as const) {
      const [together, alone] = [containerRig(), containerRig()];
      for (const { container } of [together, alone]) container.map(PAGE_2M as Iova, 0, PAGE_SIZE, PERM_RW);
      for (const base of [0, PAGE_2M, 3 * PAGE_2M]) {
        const iova = (base + Math.max(first, base === PAGE_2M ? 1 : 0) * PAGE_SIZE) as Iova;
        const pages = base === PAGE_2M ? Math.min(count, 512 - Math.max(first, 1)) : count;
        expect(together.container.mapPages(iova, vaddrs(pages), pages, PERM_READ)).to.equal(true);
        for (const [i, vaddr] of vaddrs(pages).entries())
          alone.container.map((iova + i * PAGE_SIZE) as Iova, vaddr, PAGE_SIZE, PERM_READ);
      }
      expect(held(together)).to.deep.equal(held(alone));
      expect(together.container.counters).to.deep.equal(alone.container.counters);
      for (const { iova } of held(alone))
        expect(together.user.lookup(iova)).to.equal(alone.user.lookup(iova)).and.not.to.equal(0);
      await Promise.all([together, alone].map(({ container }) => container.unmapAll()));
      expect([together.table.nodesInUse, held(together).length]).to.deep.equal([alone.table.nodesInUse, 0]);
    }
  });

  it('is refused as a whole, without any mapping', () => {
    const refused = (
      prepare: (rig: ContainerRig) => void,
      options = {},
      pages = vaddrs(4),
      perm = PERM_RW,
    ) => {
      const rig = containerRig(options);
      prepare(rig);
      const before = held(rig);
      expect(rig.container.mapPages(0 as Iova, pages, pages.length, perm)).to.equal(false);
      expect(held(rig)).to.deep.equal(before);
      for (let i = 0; i < 4; i++)
        if (!before.some(({ iova, size }) => iova <= i * PAGE_SIZE && iova + size > i * PAGE_SIZE))
          expect(rig.user.lookup(i * PAGE_SIZE)).to.equal(0);
    };
    refused(({ container }) => container.map((2 * PAGE_SIZE) as Iova, 0, PAGE_SIZE, PERM_RW));
    refused(({ container }) => container.map(0 as Iova, 0, PAGE_2M, PERM_RW));
    refused(() => {}, { entryLimit: 3 });
    refused(() => {}, { nodes: 1 });
    refused(() => {}, {}, Float64Array.of(0, 8 * PAGE_2M));
    refused(() => {}, {}, vaddrs(4), 0);
  });
});
