/**
 * The parts of translations that lie in RAM, and replays of single pages in batches.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { ContainerNotifier } from '../../src/coordinator/vm/container-notifier.ts';
import { type Iova, PAGE_2M, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { framePerm } from '../../src/pin-table/reader.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import type { Translation } from '../../src/viommu/notifier.ts';
import { RamParts } from '../../src/viommu/ram-parts.ts';
import { RAM, Tables, translation } from '../fixtures/address-space-rig.ts';
import { containerRig } from '../fixtures/container-fakes.ts';

const [LOW, HIGH] = RAM as [(typeof RAM)[0], (typeof RAM)[0]];

describe('a translation of more than RAM', () => {
  const parts = new RamParts(new Tables(translation(0, 0, 2 ** 40)), RAM);
  const [low, high] = RAM.map(({ gpa, size }) => translation(gpa, gpa, size));

  it('has at each address the part that covers it, or none', () => {
    expect(parts.leafAt(LOW.size - 1)).to.deep.equal(low);
    expect(parts.leafAt(LOW.size)).to.equal(undefined);
    expect(parts.leafAt(HIGH.gpa + 5)).to.deep.equal(high);
    expect(parts.leafAt(HIGH.gpa + HIGH.size)).to.equal(undefined);
  });

  it('shows in a range only the parts that touch it', () => {
    const walk = (start: number, end: number) => {
      const found: Translation[] = [];
      const outside: number[] = [];
      parts.walk(
        start,
        end,
        (iova, gpa, size, perm) => void found.push({ iova, gpa, size, perm }),
        (iova) => void outside.push(iova),
      );
      expect(outside, 'told of once').to.deep.equal([0]);
      return found;
    };
    expect(walk(0, PAGE_SIZE)).to.deep.equal([low]);
    expect(walk(LOW.size, HIGH.gpa)).to.deep.equal([]);
    expect(walk(HIGH.gpa + PAGE_SIZE, HIGH.gpa + 2 * PAGE_SIZE)).to.deep.equal([high]);
    expect(walk(0, 2 ** 40)).to.deep.equal([low, high]);
  });
});

describe('a replay of single pages', () => {
  /** Replays pages into a container. Returns what it holds, and what its device finds at each of them. */
  function replay(pages: readonly Translation[], held: readonly Translation[] = []) {
    const { container, user } = containerRig({ frames: 10, nodes: 64 });
    const notifier = new ContainerNotifier(container, { contains: () => true });
    const space = new DeviceAddressSpace(0x10, notifier, [LOW]);
    const unmapAll = container.unmapAll.bind(container);
    // As if another mapping were in the way when the replay begins.
    container.unmapAll = () => {
      const done = unmapAll();
      for (const { iova, gpa, size, perm } of held) container.map(iova, gpa, size, perm);
      return done;
    };
    space.enterIommu(new Tables(...pages));
    const mapped: Translation[] = [];
    container.forEach(
      0,
      2 ** 48,
      (iova, size, gpa, perm) => void mapped.push(translation(iova, gpa, size, perm)),
    );
    return { mapped, perms: pages.map(({ iova }) => framePerm(user.lookup(iova))), space };
  }

  it('keeps the permission of each page', () => {
    const perms = [PERM_RW, PERM_RW, PERM_READ, PERM_READ, PERM_RW];
    const pages = perms.map((perm, i) => translation(i * PAGE_SIZE, (9 - i) * PAGE_SIZE, PAGE_SIZE, perm));
    const { mapped, ...found } = replay(pages);
    expect(mapped).to.deep.equal(pages);
    expect(found.perms).to.deep.equal(perms);
  });

  it('continues across the end of a leaf table', () => {
    const pages = [-2, -1, 0, 1].map((i) => translation(PAGE_2M + i * PAGE_SIZE, (4 + i) * PAGE_SIZE));
    const { mapped, perms, space } = replay(pages);
    expect(mapped).to.deep.equal(pages);
    expect(perms).to.deep.equal([PERM_RW, PERM_RW, PERM_RW, PERM_RW]);
    expect(space.audit()).to.deep.equal([]);
  });

  it('maps one by one what cannot be mapped in a batch', () => {
    const pages = [0, 1, 2, 3].map((i) => translation(i * PAGE_SIZE, i * PAGE_SIZE));
    const other = translation(2 * PAGE_SIZE, 9 * PAGE_SIZE);
    const { mapped } = replay(pages, [other]);
    expect(mapped).to.deep.equal([pages[0], pages[1], other, pages[3]]);
    expect(mapped[0]?.iova).to.equal(0 as Iova);
  });
});
