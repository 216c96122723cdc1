import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import { type Gpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import type { RamRegion } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace, DIVERGENCE_LIMIT } from '../../src/viommu/address-space.ts';
import type { Completion } from '../../src/viommu/completion.ts';
import type {
  IovaRange,
  MapNotifier,
  MapOutcome,
  Translation,
  TranslationSource,
  TranslationVisitor,
} from '../../src/viommu/notifier.ts';

const RAM: readonly RamRegion[] = [
  { gpa: 0 as Gpa, size: 8 * PAGE_2M },
  { gpa: (2 ** 32) as Gpa, size: 2 * PAGE_2M },
];
const IDENTITY = RAM.map(({ gpa, size }) => ({ iova: gpa as number, gpa, size, perm: PERM_RW }));

const translation = (iova: number, gpa: number, size = PAGE_SIZE, perm = PERM_RW): Translation => ({
  iova: iova as Iova,
  gpa: gpa as Gpa,
  size,
  perm,
});

/** Tables of one domain: a sorted list. */
class Tables implements TranslationSource {
  list: Translation[];
  constructor(...list: Translation[]) {
    this.list = list;
  }
  walk(start: number, end: number, visit: TranslationVisitor): void {
    for (const { iova, gpa, size, perm } of [...this.list].sort((a, b) => a.iova - b.iova))
      if (iova < end && iova + size > start) visit(iova, gpa, size, perm);
  }
  leafAt(at: number): Translation | undefined {
    return this.list.find(({ iova, size }) => at >= iova && at < iova + size);
  }
}

/** A container that notes every event, refuses what overlaps or is not RAM, and looks after each. */
class Recorder implements MapNotifier {
  live: Translation[] = [];
  readonly log: string[] = [];
  switching = false;
  /** Unmaps complete only when the test says so. */
  slow = false;
  pending: (() => void)[] = [];
  afterEvent: (live: readonly Translation[]) => void = () => {};

  map(iova: Iova, gpa: Gpa, size: number, perm: number): MapOutcome {
    this.log.push(`map ${iova.toString(16)}`);
    expect(this.pending, 'a map before the unmap is complete').to.deep.equal([]);
    const inRam = RAM.some((r) => gpa >= r.gpa && gpa + size <= r.gpa + r.size);
    const overlaps = this.live.some((m) => iova < m.iova + m.size && m.iova < iova + size);
    if (inRam) expect(overlaps, `overlap at ${iova.toString(16)}`).to.equal(false);
    if (!inRam || overlaps) return 'refused';
    this.live.push(translation(iova, gpa, size, perm));
    this.afterEvent(this.live);
    return 'mapped';
  }

  unmap(ranges: readonly IovaRange[]): Completion {
    for (const { iova, size } of ranges) {
      this.log.push(`unmap ${iova.toString(16)}`);
      expect(
        this.live.some((m) => m.iova === iova && m.size === size),
        'unmaps whole mappings',
      ).to.equal(true);
    }
    return this.#finish(() => {
      this.live = this.live.filter((m) => !ranges.some(({ iova }) => iova === m.iova));
    });
  }

  unmapAll(): Completion {
    this.log.push('unmapAll');
    return this.#finish(() => {
      this.live = [];
    });
  }

  has(iova: Iova, gpa: Gpa, size: number, perm: number): boolean {
    return this.live.some((m) => m.iova === iova && m.gpa === gpa && m.size === size && m.perm === perm);
  }

  mappingAt(at: number): Translation | undefined {
    return this.live.find(({ iova, size }) => at >= iova && at < iova + size);
  }

  forEachMapping(start: number, end: number, visit: TranslationVisitor): void {
    new Tables(...this.live).walk(start, end, visit);
  }

  switchBegin(): void {
    this.log.push('begin');
    this.switching = true;
  }

  switchEnd(): void {
    this.log.push('end');
    this.switching = false;
  }

  sorted(): Translation[] {
    return [...this.live].sort((a, b) => a.iova - b.iova);
  }

  #finish(remove: () => void): Completion {
    if (!this.slow) {
      remove();
      this.afterEvent(this.live);
      return undefined;
    }
    return new Promise((resolve) => {
      const complete = () => {
        this.pending = this.pending.filter((other) => other !== complete);
        remove();
        this.afterEvent(this.live);
        resolve();
      };
      this.pending.push(complete);
    });
  }
}

function rig() {
  const container = new Recorder();
  return { container, space: new DeviceAddressSpace(0x10, container, RAM) };
}

/** True for a mapping that only the identity map makes. The tables of these tests never map a region to itself. */
const isIdentity = (m: Translation) =>
  IDENTITY.some((id) => id.iova === m.iova && id.gpa === m.gpa && id.size === m.size);

describe('switching between system memory and the IOMMU', () => {
  it('is blocked at first, and maps each RAM region to itself in system memory', () => {
    const { container, space } = rig();
    expect(space.kind).to.equal('blocked');
    expect(space.enterSystem()).to.equal(undefined);
    expect(space.kind).to.equal('system');
    expect(container.sorted()).to.deep.equal(IDENTITY);
    expect(container.log).to.deep.equal(['begin', 'unmapAll', 'map 0', 'map 100000000', 'end']);
    expect(space.enterSystem()).to.equal(undefined);
    expect(container.log, 'nothing to do').to.have.length(5);
  });

  it('removes every section, then replays the translations; and the reverse', () => {
    const { container, space } = rig();
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

  it('never shows a device both kinds, at any event of any sequence, with slow unmaps or fast ones', async () => {
    const step = fc.record({
      to: fc.constantFrom('system', 'iommu a', 'iommu b', 'blocked'),
      slow: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (steps) => {
        const { container, space } = rig();
        const a = new Tables(translation(0, 0x5000), translation(0x8000, 0x1000));
        const b = new Tables(translation(0x8000, 0x2000), translation(0x9000, PAGE_2M));
        container.afterEvent = (live) => {
          const identity = live.filter(isIdentity).length;
          expect(identity === 0 || identity === live.length, 'both kinds at once').to.equal(true);
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

  it('is complete only when the unmap is, and keeps the old kind until then', async () => {
    const { container, space } = rig();
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

  it('counts translations that cannot be mapped, and goes on without them', () => {
    const { container, space } = rig();
    space.enterIommu(new Tables(translation(0, 2 ** 40), translation(0x1000, 0x1000)));
    expect(container.sorted()).to.deep.equal([translation(0x1000, 0x1000)]);
    expect(space.counters).to.include({ mapEvents: 2, refused: 1 });
    expect(space.audit(), 'no divergence: it is not RAM').to.deep.equal([]);
  });
});

describe('a domain change', () => {
  it('changes only what differs', () => {
    const { container, space } = rig();
    const same = [translation(0x1000, 0x1000), translation(PAGE_2M, 0, PAGE_2M)];
    space.enterIommu(new Tables(...same, translation(0x5000, 0x5000), translation(0x6000, 0x6000)));
    container.log.length = 0;
    const next = new Tables(...same, translation(0x5000, 0x9000), translation(0x7000, 0x7000));
    space.enterIommu(next);
    expect(container.log).to.deep.equal(['begin', 'unmap 5000', 'unmap 6000', 'map 5000', 'map 7000', 'end']);
    expect(space.audit()).to.deep.equal([]);
    expect(space.kind).to.equal('iommu');
  });

  it('follows the new tables from then on, not the old', () => {
    const { container, space } = rig();
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

describe('sync after an invalidation', () => {
  it('does nothing unless the device is translated', () => {
    const { container, space } = rig();
    space.enterSystem();
    container.log.length = 0;
    expect(space.sync(0, 2 ** 48)).to.equal(undefined);
    expect(container.log).to.deep.equal([]);
  });

  it('sends no event for what did not change, and only looks at its range', () => {
    const { container, space } = rig();
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

  it('lets a device wait while a translation is replaced, and fault when it is only removed', async () => {
    const { container, space } = rig();
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
    expect(container.switching, 'nothing will be there: a miss is a fault').to.equal(false);
    container.pending[0]?.();
    await removing;
    expect(container.sorted()).to.deep.equal(tables.list);
  });

  it('maps anew when only the permission changed', () => {
    const { container, space } = rig();
    const tables = new Tables(translation(0x1000, 0x1000, PAGE_SIZE, PERM_READ));
    space.enterIommu(tables);
    tables.list = [translation(0x1000, 0x1000, PAGE_SIZE, PERM_RW)];
    space.sync(0x1000, 0x2000);
    expect(container.sorted()).to.deep.equal(tables.list);
  });

  it('replaces a superpage by small pages and back, though only one page is invalidated', () => {
    const { container, space } = rig();
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

  it('brings any change of the tables into the container, and leaves the rest of the old in place', () => {
    /** Eight slots of 16 KiB, each empty, one leaf, or up to four small ones. */
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
          const { container, space } = rig();
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

describe('audit', () => {
  it('finds what is missing, what is wrong, and what should not be there', () => {
    const { container, space } = rig();
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

  it('compares system memory with RAM, and a blocked device with nothing', () => {
    const { container, space } = rig();
    container.live = [translation(0x1000, 0x1000)];
    expect(space.audit()).to.have.length(1);
    space.enterSystem();
    expect(space.audit()).to.deep.equal([]);
    container.live.pop();
    expect(space.audit()).to.deep.equal([
      { iova: 2 ** 32, size: 2 * PAGE_2M, held: undefined, expected: 2 ** 32 },
    ]);
  });

  it(`names at most ${DIVERGENCE_LIMIT} differences`, () => {
    const { space } = rig();
    const tables = new Tables();
    space.enterIommu(tables);
    tables.list = Array.from({ length: DIVERGENCE_LIMIT + 5 }, (_, i) =>
      translation(i * PAGE_SIZE, i * PAGE_SIZE),
    );
    expect(space.audit()).to.have.length(DIVERGENCE_LIMIT);
  });
});
