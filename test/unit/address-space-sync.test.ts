/**
 * Address spaces after invalidations, and their audit.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { PAGE_2M, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { DIVERGENCE_LIMIT } from '../../src/viommu/audit.ts';
import { addressSpaceRig, Tables, translation } from '../fixtures/address-space-rig.ts';

describe('address space sync after an invalidation', () => {
  it('does nothing unless the device is translated', () => {
    const { container, space } = addressSpaceRig();
    space.enterSystem();
    container.log.length = 0;
    expect(space.sync(0, 2 ** 48)).to.equal(undefined);
    expect(container.log).to.deep.equal([]);
  });

  it('sends no event for unchanged mappings, and checks only its range', () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(
      translation(0x1000, 0x1000),
      translation(0x2000, 0x2000),
      translation(0x9000, 0x3000),
    );
    space.enterIommu(tables);
    container.log.length = 0;
    tables.list = [translation(0x1000, 0x1000), translation(0x2000, 0x4000)];
    space.sync(0x1000, 0x4000);
    expect(container.log, 'a replacement leaves no gap to fault on').to.deep.equal([
      'begin',
      'unmap 2000',
      'map 2000',
      'end',
    ]);
    expect(container.mappingAt(0x9000), 'not invalidated').to.not.equal(undefined);
  });

  it('makes a device wait while a translation is replaced, and lets it fault when one is only removed', async () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(translation(0x1000, 0x1000), translation(0x2000, 0x2000));
    space.enterIommu(tables);
    container.slow = true;
    tables.list = [translation(0x1000, 0x7000), translation(0x2000, 0x2000)];
    const replacing = space.sync(0x1000, 0x2000);
    expect(container.switching).to.equal(true);
    container.pending[0]?.();
    await replacing;
    expect(container.switching).to.equal(false);
    tables.list = [translation(0x1000, 0x7000)];
    const removing = space.sync(0x2000, 0x3000);
    expect(container.switching, 'no replacement follows, so a miss is a fault').to.equal(false);
    container.pending[0]?.();
    await removing;
    expect(container.sorted()).to.deep.equal(tables.list);
  });

  it('remaps when only the permission changed', () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(translation(0x1000, 0x1000, PAGE_SIZE, PERM_READ));
    space.enterIommu(tables);
    tables.list = [translation(0x1000, 0x1000, PAGE_SIZE, PERM_RW)];
    space.sync(0x1000, 0x2000);
    expect(container.sorted()).to.deep.equal(tables.list);
  });

  it('withdraws a permission from each of several pages, and lets a device fault on those removed', async () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(...[0x1000, 0x2000].map((at) => translation(at, at)));
    space.enterIommu(tables);
    tables.list = [translation(0x1000, 0x1000, PAGE_SIZE, PERM_READ), translation(0x2000, 0x2000)];
    expect(space.audit(), 'before the invalidation').to.have.length(1);
    space.sync(0x1000, 0x3000);
    expect(container.sorted()).to.deep.equal(tables.list);
    container.slow = true;
    tables.list = [];
    const removing = space.sync(0x1000, 0x3000);
    expect(container.switching, 'no replacement follows').to.equal(false);
    container.pending[0]?.();
    await removing;
  });

  it('maps an entry as it is after the wait for devices', async () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(translation(0x1000, 0x1000));
    space.enterIommu(tables);
    container.slow = true;
    tables.list = [translation(0x1000, 0x2000)];
    const work = space.sync(0x1000, 0x2000);
    tables.list = [translation(0x1000, 0x3000)];
    container.pending[0]?.();
    await work;
    expect(container.sorted()).to.deep.equal(tables.list);
  });

  it('replaces a superpage by small pages and back when one page is invalidated', () => {
    const { container, space } = addressSpaceRig();
    const large = translation(PAGE_2M, 0, PAGE_2M);
    const small = Array.from({ length: 512 }, (_, i) =>
      translation(PAGE_2M + i * PAGE_SIZE, (511 - i) * PAGE_SIZE),
    );
    const tables = new Tables(large);
    space.enterIommu(tables);
    tables.list = small;
    space.sync(PAGE_2M + 0x5000, PAGE_2M + 0x6000);
    expect(container.sorted()).to.deep.equal(small);
    expect(space.counters.unmapEvents).to.equal(1);
    tables.list = [large];
    space.sync(PAGE_2M + 0x5000, PAGE_2M + 0x6000);
    expect(container.sorted()).to.deep.equal([large]);
    expect(space.audit()).to.deep.equal([]);
  });

  it('applies any change of the tables inside the range, and keeps old mappings outside it', () => {
    /** Eight slots of 16 KiB; each is empty, has one leaf, or has up to four small leaves. */
    const slot = fc.oneof(
      fc.constant([] as [number, number, number][]),
      fc.nat(15).map((gpa): [number, number, number][] => [[0, gpa * 4, 4]]),
      fc
        .array(fc.nat(60), { maxLength: 4 })
        .map((gpas) => gpas.map((gpa, i): [number, number, number] => [i, gpa, 1])),
    );
    const table = fc
      .array(slot, { minLength: 8, maxLength: 8 })
      .map((slots) =>
        slots.flatMap((leaves, at) =>
          leaves.map(([page, gpa, pages]) =>
            translation((at * 4 + page) * PAGE_SIZE, gpa * PAGE_SIZE, pages * PAGE_SIZE),
          ),
        ),
      );
    fc.assert(
      fc.property(
        table,
        fc.array(fc.tuple(table, fc.nat(31), fc.integer({ min: 1, max: 32 }))),
        (first, changes) => {
          const { container, space } = addressSpaceRig();
          const tables = new Tables(...first);
          space.enterIommu(tables);
          for (const [next, start, pages] of changes) {
            tables.list = next;
            const [from, to] = [start * PAGE_SIZE, (start + pages) * PAGE_SIZE];
            space.sync(from, to);
            for (let at = from; at < to; at += PAGE_SIZE)
              expect(container.mappingAt(at)).to.deep.equal(tables.leafAt(at));
          }
          space.sync(0, 2 ** 48);
          expect(container.sorted()).to.deep.equal([...tables.list].sort((a, b) => a.iova - b.iova));
          expect(space.audit()).to.deep.equal([]);
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('address space audit', () => {
  it('reports missing, wrong and unexpected mappings', () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(translation(0x1000, 0x1000), translation(0x2000, 0x2000));
    space.enterIommu(tables);
    tables.list = [translation(0x2000, 0x7000), translation(0x3000, 0x3000)];
    expect(space.audit()).to.deep.equal([
      { iova: 0x1000, size: PAGE_SIZE, held: 0x1000, expected: undefined },
      { iova: 0x2000, size: PAGE_SIZE, held: 0x2000, expected: 0x7000 },
      { iova: 0x3000, size: PAGE_SIZE, held: undefined, expected: 0x3000 },
    ]);
    container.live = [];
    expect(space.audit()).to.have.length(2);
  });

  it('expects RAM in system memory, and no mappings of a blocked device', () => {
    const { container, space } = addressSpaceRig();
    container.live = [translation(0x1000, 0x1000)];
    expect(space.audit()).to.have.length(1);
    space.enterSystem();
    expect(space.audit()).to.deep.equal([]);
    container.live.pop();
    expect(space.audit()).to.deep.equal([
      { iova: 2 ** 32, size: 2 * PAGE_2M, held: undefined, expected: 2 ** 32 },
    ]);
  });

  it(`reports at most ${DIVERGENCE_LIMIT} differences`, () => {
    const { space } = addressSpaceRig();
    const tables = new Tables();
    space.enterIommu(tables);
    tables.list = Array.from({ length: DIVERGENCE_LIMIT + 5 }, (_, i) =>
      translation(i * PAGE_SIZE, i * PAGE_SIZE),
    );
    expect(space.audit()).to.have.length(DIVERGENCE_LIMIT);
  });
});
