import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { type Iova, PAGE_2M, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { TABLE_IOVA_LIMIT } from '../../src/pin-table/layout.ts';
import { framePerm, framePfn, PIN_UNMAPPED } from '../../src/pin-table/reader.ts';
import type { Errno } from '../../src/platform/errno.ts';
import { VfioError } from '../../src/vfio/errors.ts';
import type { DmaMapping } from '../../src/vfio/mapping.ts';
import { DMA_ENTRY_LIMIT } from '../../src/vfio/mapping-rules.ts';
import { type ContainerRig, containerRig } from '../fixtures/container-fakes.ts';

const ENTRY_LIMIT = 6;
const FRAMES = 4;
const MEMORY = FRAMES * PAGE_2M;

/** The container's rules on an unordered list. */
class Model {
  mappings: DmaMapping[] = [];

  map(iova: number, vaddr: number, size: number, perm: number): Errno | undefined {
    const aligned = [iova, vaddr, size].every((value) => value % PAGE_SIZE === 0);
    if (!aligned || size <= 0 || perm < 1 || perm > 3) return 'EINVAL';
    if (this.mappings.some((m) => iova < m.iova + m.size && m.iova < iova + size)) return 'EEXIST';
    if (this.mappings.length >= ENTRY_LIMIT) return 'ENOSPC';
    if (vaddr + size > MEMORY) return 'EFAULT';
    this.mappings.push({ iova: iova as Iova, vaddr, size, perm });
    return undefined;
  }

  unmap(iova: number, size: number, straddling: 'refuse' | 'keep'): number | Errno {
    if (size <= 0 || size % PAGE_SIZE !== 0 || iova % PAGE_SIZE !== 0) return 'EINVAL';
    const touched = this.mappings.filter((m) => iova < m.iova + m.size && m.iova < iova + size);
    const inside = touched.filter((m) => m.iova >= iova && m.iova + m.size <= iova + size);
    if (straddling === 'refuse' && inside.length < touched.length) return 'EINVAL';
    this.mappings = this.mappings.filter((m) => !inside.includes(m));
    return inside.length;
  }

  at(iova: number): DmaMapping | undefined {
    return this.mappings.find((m) => iova >= m.iova && iova < m.iova + m.size);
  }

  sorted(start = 0, end = Number.POSITIVE_INFINITY): DmaMapping[] {
    return this.mappings
      .filter((m) => m.iova < end && m.iova + m.size > start)
      .sort((a, b) => a.iova - b.iova);
  }
}

function errnoOf(action: () => void): Errno | undefined {
  try {
    action();
  } catch (error) {
    if (error instanceof VfioError) return error.errno;
    throw error;
  }
  return undefined;
}

async function settled(work: Promise<number>): Promise<number | Errno> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof VfioError) return error.errno;
    throw error;
  }
}

/** Few pages, so that ranges overlap, and sometimes an unaligned value. */
const amount = (max: number) =>
  fc.oneof(
    { weight: 20, arbitrary: fc.nat(max).map((n) => n * PAGE_SIZE) },
    { weight: 1, arbitrary: fc.nat(9000) },
  );
const iova = fc.oneof(
  amount(24),
  amount(24).map((n) => PAGE_2M - 12 * PAGE_SIZE + n),
);

const operation = fc.oneof(
  fc.record({
    op: fc.constant('map' as const),
    iova,
    vaddr: fc.oneof(
      amount(24),
      amount(24).map((n) => MEMORY - 12 * PAGE_SIZE + n),
    ),
    size: fc.oneof(amount(12), fc.constant(PAGE_2M)),
    perm: fc.oneof(
      { weight: 12, arbitrary: fc.integer({ min: 1, max: 3 }) },
      { weight: 1, arbitrary: fc.nat(5) },
    ),
  }),
  fc.record({
    op: fc.constant('unmap' as const),
    iova,
    size: fc.oneof(amount(24), fc.constant(2 * PAGE_2M)),
    straddling: fc.constantFrom('refuse' as const, 'keep' as const),
  }),
  fc.record({ op: fc.constant('query' as const), start: iova, length: amount(30) }),
  fc.record({
    op: fc.constant('clear' as const),
    really: fc.integer({ min: 0, max: 7 }).map((n) => n === 0),
  }),
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

async function apply(operation: Operation, model: Model, { container }: ContainerRig): Promise<void> {
  switch (operation.op) {
    case 'map': {
      const { iova, vaddr, size, perm } = operation;
      const errno = errnoOf(() => container.map(iova as Iova, vaddr, size, perm));
      expect(errno, 'errno of map').to.equal(model.map(iova, vaddr, size, perm));
      return;
    }
    case 'unmap': {
      const { iova, size, straddling } = operation;
      const answer = await settled(container.unmapRange(iova as Iova, size, straddling));
      expect(answer, 'result of unmap').to.equal(model.unmap(iova, size, straddling));
      return;
    }
    case 'query': {
      const { start, length } = operation;
      const seen: DmaMapping[] = [];
      container.forEach(start, start + length, (at, size, vaddr, perm) => {
        seen.push({ iova: at as Iova, size, vaddr, perm });
      });
      if (length > 0) expect(seen).to.deep.equal(model.sorted(start, start + length));
      expect(container.mappingAt(start)).to.deep.equal(model.at(start));
      return;
    }
    case 'clear':
      if (!operation.really) return;
      await container.unmapAll();
      model.mappings = [];
  }
}

/** Checks page by page that the device's lookups equal the container's mappings. */
function checkDevice(model: Model, { user, backing }: ContainerRig): void {
  for (let at = 0; at < PAGE_2M + 40 * PAGE_SIZE; at += PAGE_SIZE) {
    const leaf = user.lookup(at);
    const expected = model.at(at);
    expect(framePerm(leaf)).to.equal(expected?.perm ?? 0);
    if (expected)
      expect(framePfn(leaf) * PAGE_SIZE).to.equal(backing.hpaOf(expected.vaddr + (at - expected.iova)));
  }
}

describe('container compared with a list of mappings', () => {
  it('returns equal results, and the device sees the container’s mappings', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 60, size: 'max' }), async (operations) => {
        const rig = containerRig({ entryLimit: ENTRY_LIMIT, frames: FRAMES, nodes: 12 });
        const model = new Model();
        for (const next of operations) {
          await apply(next, model, rig);
          expect(rig.container.liveMappings).to.equal(model.mappings.length);
        }
        checkDevice(model, rig);
        const all: DmaMapping[] = [];
        rig.container.forEach(0, TABLE_IOVA_LIMIT, (at, size, vaddr, perm) => {
          all.push({ iova: at as Iova, size, vaddr, perm });
        });
        expect(all).to.deep.equal(model.sorted());
        expect(rig.user.asked).to.deep.equal([]);
        await rig.container.unmapAll();
        expect(rig.table.nodesInUse).to.equal(0);
      }),
      { numRuns: 120 },
    );
  });
});

describe('container at its limits', () => {
  it(`holds ${DMA_ENTRY_LIMIT} mappings, and refuses one more with ENOSPC`, () => {
    const { container } = containerRig({ nodes: 256 });
    for (let page = 0; page < DMA_ENTRY_LIMIT; page++)
      container.map((page * PAGE_SIZE) as Iova, 0, PAGE_SIZE, 1);
    expect(container.liveMappings).to.equal(65535);
    const beyond = (DMA_ENTRY_LIMIT * PAGE_SIZE) as Iova;
    expect(errnoOf(() => container.map(beyond, 0, PAGE_SIZE, 1))).to.equal('ENOSPC');
    expect(
      errnoOf(() => container.map(0 as Iova, 0, PAGE_SIZE, 1)),
      'overlap before the limit',
    ).to.equal('EEXIST');
    expect(container.unmapAll(), 'no pins').to.equal(undefined);
    expect(container.liveMappings).to.equal(0);
  });

  it('refuses a map with ENOSPC when the pin table is full, without a partial mapping', async () => {
    const { container, user, table } = containerRig({ nodes: 2 });
    const [first, size] = [(PAGE_2M - PAGE_SIZE) as Iova, 2 * PAGE_SIZE];
    expect(errnoOf(() => container.map(first, first, size, PERM_RW))).to.equal('ENOSPC');
    expect(user.lookup(first)).to.equal(0);
    expect(user.reader.pin(first, 1)).to.equal(PIN_UNMAPPED);
    expect(container.liveMappings).to.equal(0);
    expect(table.nodesInUse).to.equal(0);
    container.map(first, first, PAGE_SIZE, PERM_RW);
    expect(await container.unmapRange(first, PAGE_SIZE)).to.equal(1);
  });

  it('maps the last 48-bit IOVA page, and refuses higher ones with EINVAL, or EOVERFLOW past 2^64', () => {
    const { container, user } = containerRig();
    const last = (TABLE_IOVA_LIMIT - PAGE_SIZE) as Iova;
    container.map(last, 0, PAGE_SIZE, PERM_RW);
    expect(framePerm(user.lookup(last))).to.equal(PERM_RW);
    const beyond = TABLE_IOVA_LIMIT as Iova;
    expect(errnoOf(() => container.map(beyond, 0, PAGE_SIZE, PERM_RW))).to.equal('EINVAL');
    const half = (TABLE_IOVA_LIMIT - 2 * PAGE_2M) as Iova;
    expect(errnoOf(() => container.map(half, 0, 3 * PAGE_2M, PERM_RW))).to.equal('EINVAL');
    expect(user.lookup(half), 'no partial mapping').to.equal(0);
    const top = (2 ** 64 - PAGE_SIZE * 1024) as Iova;
    expect(errnoOf(() => container.map(top, 0, PAGE_SIZE * 2048, PERM_RW))).to.equal('EOVERFLOW');
    expect(errnoOf(() => container.map(-PAGE_SIZE as Iova, 0, PAGE_SIZE, PERM_RW))).to.equal('EINVAL');
  });

  it('names both ranges when it refuses an overlap or a split', async () => {
    const { container } = containerRig();
    container.map(0x1000 as Iova, 0, 0x3000, PERM_RW);
    expect(() => container.map(0x3000 as Iova, 0, 0x2000, 1)).to.throw(
      VfioError,
      '0x3000 +0x2000 overlaps 0x1000 +0x3000',
    );
    const split = await container.unmapRange(0x2000 as Iova, 0x1000).catch((error: Error) => error.message);
    expect(split).to.equal('EINVAL: unmap of 0x2000 +0x1000 would split the mapping 0x1000 +0x3000');
    expect(await container.unmapRange(0x2000 as Iova, 0x1000, 'keep')).to.equal(0);
    expect(container.liveMappings).to.equal(1);
  });
});
