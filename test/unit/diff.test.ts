import { expect } from 'chai';
import { parseVtdVectors } from '../../src/conformance/vtd/vectors.ts';
import { generatePlan, planSeed } from '../diff/generate.ts';
import { assemble, QUEUE_PAGE } from '../diff/plan.ts';
import { shrink } from '../diff/shrink.ts';
import { factsOf, normalised, versionOf } from '../diff/versions.ts';

const SEEDS = Array.from({ length: 50 }, (_, index) => planSeed(7, index));

describe('live differential run', () => {
  it('makes equal plans from equal seeds, and different plans from others', () => {
    const steps = (seed: number) => JSON.stringify(assemble(generatePlan(seed)), bigintAsText);
    for (const seed of SEEDS) expect(steps(seed)).to.equal(steps(seed));
    expect(new Set(SEEDS.map(steps)).size).to.equal(SEEDS.length);
  });

  it('makes steps that form a vector in the recorded format', () => {
    for (const seed of SEEDS) {
      const plan = generatePlan(seed);
      const open = assemble(plan).map(({ probes: _, ...step }) => step);
      const { actions: _, queued: __, ...rest } = plan;
      const [vector] = parseVtdVectors([{ ...rest, steps: open }]);
      expect(vector?.steps).to.have.lengthOf(open.length);
      expect(open.some(({ op }) => op === 'dma_read')).to.equal(
        plan.actions.some((action) => action.kind === 'dma' && !action.write),
      );
    }
  });

  it('closes the gap in the invalidation queue when an action is omitted', () => {
    const seed = SEEDS.find((each) => generatePlan(each).queued) ?? 0;
    const plan = generatePlan(seed);
    const wait = { kind: 'wait', data: 5, interrupt: false } as const;
    const places = (count: number) =>
      assemble({ ...plan, actions: Array(count).fill(wait) }).flatMap((step) =>
        step.op === 'mem_write' ? [Number(step.gpa)] : [],
      );
    expect(places(3)).to.deep.equal([QUEUE_PAGE, QUEUE_PAGE + 16, QUEUE_PAGE + 32]);
    expect(places(2)).to.deep.equal([QUEUE_PAGE, QUEUE_PAGE + 16]);
  });

  it('invalidates after every change of a table that follows the set-up', () => {
    for (const seed of SEEDS) {
      const { actions } = generatePlan(seed);
      const setUp = actions.findIndex(({ kind }) => kind === 'root');
      for (const action of actions.slice(setUp))
        if (action.kind === 'tables') expect(action.flushes).not.to.be.empty;
    }
  });

  it('shrinks a failing plan to the actions that the difference needs', async () => {
    const items = Array.from({ length: 60 }, (_, index) => index);
    let runs = 0;
    const left = await shrink(
      items,
      async (shorter) => {
        runs++;
        return shorter.includes(7) && shorter.includes(41);
      },
      { keeps: (item) => item === 13 },
    );
    expect(left).to.deep.equal([7, 13, 41]);
    expect(runs).to.be.below(100);
  });

  it('stops shrinking at its limit, and returns the smallest failing plan', async () => {
    const fails = async (shorter: readonly number[]) => shorter.includes(3);
    const items = Array.from({ length: 30 }, (_, index) => index);
    const left = await shrink(items, fails, { limit: 2 });
    expect(left).to.include(3).and.to.have.length.above(1);
  });

  it('ignores only the differences in its table of versions', () => {
    const record = { op: 'reg_read', off: '0x228', size: 8, expect: '0xc0ffff0600000028' } as const;
    const old = factsOf(versionOf('QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)') ?? [0, 0]);
    expect(normalised(record, old)).to.include({ expect: '0xc000000600000028' });
    expect(normalised(record, factsOf([11, 1]))).to.equal(record);
    const other = { ...record, expect: '0xc0fffe0600000028' };
    expect(normalised(other, old)).to.equal(other);
    expect(versionOf('no QEMU')).to.equal(undefined);
  });
});

const bigintAsText = (_: string, value: unknown): unknown =>
  typeof value === 'bigint' ? value.toString() : value;
