import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import { PAGE_2M, PERM_READ } from '../../src/memory/address.ts';
import type { Translation } from '../../src/viommu/notifier.ts';
import { addressSpaceRig, IDENTITY, Tables, translation } from '../fixtures/address-space-rig.ts';

/** True for a mapping of the identity map. The tables of these tests never map a region to itself. */
const isIdentity = (m: Translation) =>
  IDENTITY.some((id) => id.iova === m.iova && id.gpa === m.gpa && id.size === m.size);

describe('address space switch between system memory and the IOMMU', () => {
  it('starts blocked, and maps each RAM region to itself in system memory', () => {
    const { container, space } = addressSpaceRig();
    expect(space.kind).to.equal('blocked');
    expect(space.enterSystem()).to.equal(undefined);
    expect(space.kind).to.equal('system');
    expect(container.sorted()).to.deep.equal(IDENTITY);
    expect(container.log).to.deep.equal(['begin', 'unmapAll', 'map 0', 'map 100000000', 'end']);
    expect(space.enterSystem()).to.equal(undefined);
    expect(container.log, 'no second switch').to.have.length(5);
  });

  it('removes every section before it replays the translations, and the reverse', () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(translation(0x8000, 0x1000), translation(PAGE_2M, PAGE_2M, PAGE_2M, PERM_READ));
    space.enterSystem();
    container.log.length = 0;
    space.enterIommu(tables);
    expect(container.sorted()).to.deep.equal(tables.list);
    expect(container.log).to.deep.equal(['begin', 'unmapAll', 'map 8000', 'map 200000', 'end']);
    space.enterSystem();
    expect(container.sorted()).to.deep.equal(IDENTITY);
    space.enterBlocked();
    expect(container.sorted()).to.deep.equal([]);
    expect(space.counters).to.include({ switches: 4, refused: 0 });
  });

  it('never mixes both kinds of mappings during any sequence of switches, with slow or fast unmaps', async () => {
    const step = fc.record({
      to: fc.constantFrom('system', 'iommu a', 'iommu b', 'blocked'),
      slow: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (steps) => {
        const { container, space } = addressSpaceRig();
        const a = new Tables(translation(0, 0x5000), translation(0x8000, 0x1000));
        const b = new Tables(translation(0x8000, 0x2000), translation(0x9000, PAGE_2M));
        container.afterEvent = (live) => {
          const identity = live.filter(isIdentity).length;
          expect(identity === 0 || identity === live.length, 'both kinds of mappings at once').to.equal(true);
          expect(container.switching, 'every change happens inside a switch').to.equal(true);
        };
        for (const { to, slow } of steps) {
          container.slow = slow;
          const work =
            to === 'system'
              ? space.enterSystem()
              : to === 'blocked'
                ? space.enterBlocked()
                : space.enterIommu(to === 'iommu a' ? a : b);
          while (container.pending.length > 0) {
            expect(container.switching).to.equal(true);
            for (const complete of container.pending) complete();
            await yieldTurn();
          }
          await work;
          expect(container.switching, 'the switch has ended').to.equal(false);
          const expected = { system: IDENTITY, 'iommu a': a.list, 'iommu b': b.list, blocked: [] }[to] ?? [];
          expect(container.sorted()).to.deep.equal(expected);
          expect(space.audit()).to.deep.equal([]);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('completes after the unmap, and keeps the old kind until then', async () => {
    const { container, space } = addressSpaceRig();
    space.enterSystem();
    container.slow = true;
    let done = false;
    const work = space.enterIommu(new Tables(translation(0x8000, 0x1000)))?.then(() => {
      done = true;
    });
    await yieldTurn();
    expect([done, space.kind, container.switching]).to.deep.equal([false, 'system', true]);
    expect(container.sorted()).to.deep.equal(IDENTITY);
    container.pending[0]?.();
    await work;
    expect([done, space.kind, container.switching]).to.deep.equal([true, 'iommu', false]);
  });

  it('counts and skips translations that cannot be mapped', () => {
    const { container, space } = addressSpaceRig();
    space.enterIommu(new Tables(translation(0x1000, 0x1000), translation(0x2000, 2 ** 40)));
    expect(container.sorted()).to.deep.equal([translation(0x1000, 0x1000)]);
    expect(space.counters).to.include({ mapEvents: 1, refused: 1 });
    expect(space.audit(), 'no divergence: it is not RAM').to.deep.equal([]);
  });

  it('maps the translations behind one that the container refuses', () => {
    const { container, space } = addressSpaceRig();
    const map = container.map.bind(container);
    container.map = (iova, ...rest) => (iova === PAGE_2M ? 'refused' : map(iova, ...rest));
    const large = [0, PAGE_2M, 2 * PAGE_2M].map((at) => translation(at, at, PAGE_2M));
    space.enterIommu(new Tables(...large));
    expect(container.sorted()).to.deep.equal([large[0], large[2]]);
  });
});

describe('address space domain change', () => {
  it('changes only mappings that differ', () => {
    const { container, space } = addressSpaceRig();
    const same = [translation(0x1000, 0x1000), translation(PAGE_2M, 0, PAGE_2M)];
    space.enterIommu(new Tables(...same, translation(0x5000, 0x5000), translation(0x6000, 0x6000)));
    container.log.length = 0;
    const next = new Tables(...same, translation(0x5000, 0x9000), translation(0x7000, 0x7000));
    space.enterIommu(next);
    expect(container.log).to.deep.equal(['begin', 'unmap 5000', 'unmap 6000', 'map 5000', 'map 7000', 'end']);
    expect(space.audit()).to.deep.equal([]);
    expect(space.kind).to.equal('iommu');
  });

  it('follows only the new tables afterwards', () => {
    const { container, space } = addressSpaceRig();
    const [old, next] = [new Tables(translation(0x1000, 0x1000)), new Tables(translation(0x1000, 0x1000))];
    space.enterIommu(old);
    space.enterIommu(next);
    old.list = [];
    space.sync(0, 2 ** 48);
    expect(container.live).to.have.length(1);
    next.list = [];
    space.sync(0, 2 ** 48);
    expect(container.live).to.have.length(0);
  });
});
