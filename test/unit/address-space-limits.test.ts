/**
 * Translations that a container cannot take whole: those that extend beyond RAM, and those for which it has no room.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import { PAGE_2M, PAGE_SIZE, PERM_READ } from '../../src/memory/address.ts';
import type { Translation } from '../../src/viommu/notifier.ts';
import { addressSpaceRig, RAM, Tables, translation } from '../fixtures/address-space-rig.ts';

const GIB = 2 ** 30;
const FOUR_GIB = 2 ** 32;
const [LOW, HIGH] = RAM.map(({ size }) => size) as [number, number];

describe('a translation that extends beyond RAM', () => {
  it('is mapped where it lies in RAM, with its permissions', () => {
    const { container, space } = addressSpaceRig();
    space.enterIommu(new Tables(translation(8 * GIB, 0, GIB, PERM_READ)));
    expect(container.sorted()).to.deep.equal([translation(8 * GIB, 0, LOW, PERM_READ)]);
    expect(space.unmapped.lines()).to.deep.equal([
      'IOVA 0x200000000 +0x40000000 leads to GPA 0x0: only the part in guest RAM is mapped',
    ]);
    expect(space.audit()).to.deep.equal([]);
  });

  it('is mapped in parts if it covers several ranges of RAM, as an identity domain does', () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables();
    space.enterIommu(tables);
    tables.list = [translation(0, 0, 2 ** 40)];
    space.sync(0, 2 ** 40);
    expect(container.sorted()).to.deep.equal([translation(0, 0, LOW), translation(FOUR_GIB, FOUR_GIB, HIGH)]);
    tables.list = [];
    space.sync(0, 2 ** 40);
    expect(container.live).to.deep.equal([]);
  });

  it('begins in the middle if RAM begins behind its start', () => {
    const { container, space } = addressSpaceRig();
    space.enterIommu(new Tables(translation(0x8000_0000, FOUR_GIB - PAGE_2M, 2 * PAGE_2M)));
    expect(container.sorted()).to.deep.equal([translation(0x8020_0000, FOUR_GIB, PAGE_2M)]);
  });

  it('is not mapped without RAM, which the log says once', () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(translation(0x1000, GIB));
    space.enterIommu(tables);
    for (let i = 0; i < 3; i++) space.sync(0x1000, 0x2000);
    expect(container.live).to.deep.equal([]);
    expect(space.unmapped.lines()).to.deep.equal([
      'IOVA 0x1000 +0x1000 leads to GPA 0x40000000: not mapped, because that is not guest RAM',
    ]);
    expect(space.audit()).to.deep.equal([]);
  });

  it('is audited where it lies in RAM', () => {
    const { container, space } = addressSpaceRig();
    space.enterIommu(new Tables(translation(0, 0, 2 ** 40)));
    container.live = container.live.filter(({ iova }) => iova === 0);
    expect(space.audit()).to.deep.equal([
      { iova: FOUR_GIB, size: HIGH, held: undefined, expected: FOUR_GIB },
    ]);
  });
});

describe('a container that is full', () => {
  const pages = (count: number, at = 0) =>
    Array.from({ length: count }, (_, i) => translation((at + i) * PAGE_SIZE, i * PAGE_SIZE));

  it('takes the rest of the translations as unmaps make room, from the lowest on', () => {
    const { container, space } = addressSpaceRig();
    container.capacity = 8;
    const tables = new Tables(...pages(12));
    space.enterIommu(tables);
    expect(container.sorted()).to.deep.equal(pages(8));
    expect(space.unmapped.lines()[0]).to.equal(
      'IOVA 0x8000 +0x1000 not mapped: ENOSPC: no room; mapped when there is room',
    );
    tables.list = pages(12).slice(1);
    space.sync(0, PAGE_SIZE);
    expect(container.sorted()).to.deep.equal(pages(9).slice(1));
    tables.list = pages(12).slice(5);
    space.sync(0, 5 * PAGE_SIZE);
    expect(container.sorted()).to.deep.equal(pages(12).slice(5));
    expect(space.lacking()).to.equal(undefined);
  });

  it('remembers the lowest translation without room while further ones come', () => {
    const { container, space } = addressSpaceRig();
    container.capacity = 1;
    const tables = new Tables();
    space.enterIommu(tables);
    for (const page of [1, 2, 5]) {
      tables.list = [...tables.list, ...pages(1, page)];
      space.sync(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
    }
    tables.list = pages(1, 2);
    space.sync(5 * PAGE_SIZE, 6 * PAGE_SIZE);
    space.sync(PAGE_SIZE, 2 * PAGE_SIZE);
    expect(container.sorted()).to.deep.equal(pages(1, 2));
  });

  it('is not a missed invalidation: the audit tells what is lacking, and why', () => {
    const { container, space } = addressSpaceRig();
    container.capacity = 4;
    space.enterIommu(new Tables(...pages(7)));
    expect(space.audit()).to.deep.equal([]);
    expect(space.lacking()).to.deep.equal({
      count: 3,
      iova: 4 * PAGE_SIZE,
      size: PAGE_SIZE,
      reason: 'ENOSPC: no room',
    });
    expect(space.refusalAt(5 * PAGE_SIZE)).to.equal('ENOSPC: no room');
    expect(space.refusalAt(PAGE_SIZE), 'it is mapped').to.equal(undefined);
  });

  it('forgets what it lacked with the tables that had it', () => {
    const { container, space } = addressSpaceRig();
    container.capacity = 4;
    space.enterIommu(new Tables(...pages(7)));
    space.enterBlocked();
    expect(space.lacking()).to.equal(undefined);
    space.enterIommu(new Tables(...pages(2)));
    expect(container.live).to.have.length(2);
    expect(space.lacking()).to.equal(undefined);
  });

  it('ends with every translation for which there is room, after any changes, also slow ones', async () => {
    const change = fc.tuple(fc.nat(30), fc.integer({ min: 1, max: 8 }), fc.boolean(), fc.boolean());
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 24 }), fc.array(change), async (capacity, changes) => {
        const { container, space } = addressSpaceRig();
        container.capacity = capacity;
        const tables = new Tables();
        space.enterIommu(tables);
        for (const [start, count, isMap, slow] of changes) {
          const range = pages(count, start);
          const others = tables.list.filter(({ iova }) => !range.some((page) => page.iova === iova));
          tables.list = isMap ? [...others, ...range] : others;
          container.slow = slow;
          const work = space.sync(start * PAGE_SIZE, (start + count) * PAGE_SIZE);
          while (container.pending.length > 0) {
            for (const complete of container.pending) complete();
            await yieldTurn();
          }
          await work;
          const held = container.sorted();
          expect(held).to.have.length(Math.min(capacity, tables.list.length));
          const isTranslation = (mapping: Translation) =>
            tables.list.some(({ iova, gpa }) => iova === mapping.iova && gpa === mapping.gpa);
          expect(held.every(isTranslation)).to.equal(true);
          expect(space.audit()).to.deep.equal([]);
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe('an audit of a guest that works', () => {
  const rig = () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(translation(0x1000, 0x1000), translation(0x2000, 0x2000));
    space.enterIommu(tables);
    return { container, space, tables };
  };

  it('suspects each difference, and accuses only of those that no invalidation covers', () => {
    const { space, tables } = rig();
    tables.list = [];
    expect(space.beginAudit()).to.equal(2);
    space.sync(0x1000, 0x2000);
    expect(space.endAudit()).to.deep.equal([
      { iova: 0x2000, size: PAGE_SIZE, held: 0x2000, expected: undefined },
    ]);
    expect(space.endAudit(), 'an audit ends once').to.deep.equal([]);
  });

  it('takes an invalidation for an explanation even if the same difference is back', () => {
    const { space, tables } = rig();
    const before = tables.list;
    tables.list = [];
    space.beginAudit();
    space.sync(0, 2 ** 48);
    tables.list = before;
    space.sync(0, 2 ** 48);
    tables.list = [];
    expect(space.audit()).to.have.length(2);
    expect(space.endAudit()).to.deep.equal([]);
  });

  it('accuses of nothing that the guest has changed again, or that a switch has replaced', () => {
    const { space, tables } = rig();
    tables.list = [];
    space.beginAudit();
    tables.list = [translation(0x1000, 0x7000), translation(0x2000, 0x2000)];
    expect(space.endAudit()).to.deep.equal([]);
    tables.list = [];
    space.beginAudit();
    space.enterSystem();
    expect(space.endAudit()).to.deep.equal([]);
  });

  it('takes a switch for an explanation even if the same difference is back', () => {
    const { space, tables } = rig();
    const before = tables.list;
    tables.list = [];
    space.beginAudit();
    tables.list = before;
    space.enterBlocked();
    space.enterIommu(tables);
    tables.list = [];
    expect(space.audit()).to.have.length(2);
    expect(space.endAudit()).to.deep.equal([]);
  });
});
