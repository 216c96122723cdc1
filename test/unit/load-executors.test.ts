/**
 * Executors on VUs without devices: which iterations start, when, and which are dropped.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { nowUs, sleep } from '#host';
import type { Pattern, Stage } from '../../src/load/compile.ts';
import { RunClock } from '../../src/load/guest/clock.ts';
import { execute, type StageProgress, type StageVu } from '../../src/load/guest/executors.ts';
import type { Share } from '../../src/load/schedule.ts';

const ALONE: Share = { index: 0, count: 1 };

class FakeVu implements StageVu {
  readonly vgpu: number;
  alive = true;
  iterations = 0;
  endedUs = 0;
  /** When each iteration was due and when it started, from the start of the clock. */
  readonly started: { readonly due: number; readonly at: number }[] = [];
  readonly #work: () => Promise<void>;

  constructor(vgpu: number, work: () => Promise<void>) {
    this.vgpu = vgpu;
    this.#work = work;
  }

  async iterate(dueUs: number): Promise<void> {
    this.iterations++;
    this.started.push({ due: dueUs, at: nowUs() });
    await this.#work();
    this.endedUs = nowUs();
  }
}

interface Run {
  readonly pattern: Pattern;
  readonly share?: Share;
  readonly readyUs?: number;
  readonly vgpus?: number;
  readonly vus?: number;
  readonly work?: () => Promise<void>;
  readonly progress?: StageProgress;
  /** Iterations of each VU at its last host. */
  readonly before?: readonly number[];
  readonly during?: (clock: RunClock, vus: readonly FakeVu[], dropped: () => number) => Promise<void>;
}

/** Runs a stage from now on; returns its VUs, the count of dropped iterations, and the start on the scale of nowUs. */
async function run({
  pattern,
  share = ALONE,
  readyUs = 0,
  vgpus = 1,
  vus = 2,
  work = () => sleep(1),
  progress = {},
  before = [],
  during,
}: Run) {
  const all = Array.from({ length: vgpus }, (_, vgpu) =>
    Array.from({ length: vus }, () => new FakeVu(vgpu, work)),
  );
  for (const [i, vu] of all.flat().entries()) vu.iterations = before[i] ?? 0;
  const stage: Stage = {
    name: 'stage',
    index: 0,
    startUs: 0,
    gracefulStopUs: 0,
    measured: true,
    verify: 1,
    mix: [['fill', 1]],
    pattern,
  };
  const clock = new RunClock();
  const start = nowUs();
  clock.start(start);
  let dropped = 0;
  const counter = {
    add: (count = 1) => {
      dropped += count;
    },
  };
  await Promise.all([
    execute({ stage, share, clock, vus: all, dropped: counter, readyUs, progress }),
    during?.(clock, all.flat(), () => dropped),
  ]);
  return { vus: all.flat(), dropped, start, total: all.flat().reduce((sum, vu) => sum + vu.iterations, 0) };
}

describe('closed executors', () => {
  it('constant-vus: every VU iterates until the end', async () => {
    const { vus } = await run({ pattern: { kind: 'vus', vus: 2, durationUs: 100_000 }, vgpus: 2 });
    expect(vus).to.have.length(4);
    for (const { iterations } of vus) expect(iterations).to.be.above(1);
  });

  it('per-vu-iterations: each VU has its own count', async () => {
    const { vus, dropped } = await run({
      pattern: { kind: 'per-vu', vus: 2, iterations: 7, durationUs: 60e6 },
    });
    expect(vus.map(({ iterations }) => iterations)).to.deep.equal([7, 7]);
    expect(dropped).to.equal(0);
  });

  it('per-vu-iterations: iterations beyond maxDuration are dropped', async () => {
    const { total, dropped } = await run({
      pattern: { kind: 'per-vu', vus: 2, iterations: 1000, durationUs: 50_000 },
      work: () => sleep(20),
    });
    expect(total + dropped).to.equal(2000);
    expect(dropped).to.be.above(1900);
  });

  it('shared-iterations: the VMs of a group together have the count', async () => {
    const pattern: Pattern = { kind: 'shared', vus: 2, iterations: 23, durationUs: 60e6 };
    const runs = [0, 1, 2].map((index) => run({ pattern, share: { index, count: 3 } }));
    const totals = (await Promise.all(runs)).map(({ total }) => total);
    expect(totals).to.deep.equal([8, 8, 7]);
  });

  it('ramping-vus: VUs come and go', async () => {
    const ramps = [
      { durationUs: 200_000, target: 2 },
      { durationUs: 1_500_000, target: 2 },
      { durationUs: 200_000, target: 0 },
    ];
    const { vus, start } = await run({ pattern: { kind: 'ramping-vus', start: 0, ramps } });
    const firsts = vus.map(({ started }) => (started[0]?.at ?? 0) - start);
    expect(firsts[0]).to.be.at.least(100_000);
    expect(firsts[1]).to.be.at.least(200_000);
    // The second VU leaves when the line goes below 2, at once.
    expect(vus[1]?.iterations).to.be.at.most(vus[0]?.iterations ?? 0);
  });

  it('end when the clock is stopped, and when their vGPUs are lost', async () => {
    const pattern: Pattern = { kind: 'vus', vus: 2, durationUs: 600e6 };
    await run({ pattern, during: async (clock) => sleep(20).then(() => clock.stop()) });
    await run({
      pattern,
      during: async (_, vus) => {
        await sleep(20);
        for (const vu of vus) vu.alive = false;
      },
    });
  });
});

describe('executors of a VM that moves', () => {
  /** Runs a stage, holds it after a while, and runs the rest as another host would; returns all its iterations. */
  async function moved(pattern: Pattern, work: () => Promise<void>) {
    const progress: StageProgress = {};
    let dropped = 0;
    let saved: { readonly progress: StageProgress; readonly iterations: readonly number[] } | undefined;
    const first = run({
      pattern,
      work,
      progress,
      during: async (clock, vus, droppedHere) => {
        await sleep(60);
        clock.hold();
        await sleep(60); // for what is in flight
        dropped = droppedHere();
        saved = { progress: { ...progress }, iterations: vus.map(({ iterations }) => iterations) };
        const held = vus.map(({ iterations }) => iterations);
        await sleep(60);
        expect(
          vus.map(({ iterations }) => iterations),
          'nothing starts in a hold',
        ).to.deep.equal(held);
        clock.stop();
        clock.release();
      },
    });
    // The first host has lost the VM, so that what it counts after the hold is not counted.
    await first;
    expect(saved?.iterations.some((count) => count > 0)).to.equal(true);
    const rest = await run({
      pattern,
      work,
      progress: saved?.progress ?? {},
      before: saved?.iterations ?? [],
    });
    dropped += rest.dropped;
    return { total: rest.total, dropped, vus: rest.vus };
  }

  it('per-vu-iterations: each VU has its count, no more and no less', async () => {
    const pattern: Pattern = { kind: 'per-vu', vus: 2, iterations: 90, durationUs: 60e6 };
    const { vus, dropped } = await moved(pattern, () => sleep(1));
    expect(vus.map(({ iterations }) => iterations)).to.deep.equal([90, 90]);
    expect(dropped).to.equal(0);
  });

  it('shared-iterations: the rest is done', async () => {
    const pattern: Pattern = { kind: 'shared', vus: 2, iterations: 150, durationUs: 60e6 };
    expect(await moved(pattern, () => sleep(1))).to.include({ total: 150, dropped: 0 });
  });

  it('arrivals: each number is started or dropped once', async () => {
    const pattern: Pattern = { kind: 'rate', vus: 2, rate: 200, durationUs: 400_000 };
    const { total, dropped } = await moved(pattern, async () => {});
    expect(total + dropped).to.equal(80);
  });
});

describe('open executors', () => {
  const RATE = 200;

  it('start every arrival of the rate, at its time or later', async () => {
    const pattern: Pattern = { kind: 'rate', vus: 8, rate: RATE, durationUs: 200_000 };
    const { vus, dropped, start, total } = await run({ pattern, vus: 64, work: async () => {} });
    expect([total, dropped]).to.deep.equal([40, 0]);
    const dues = vus.flatMap(({ started }) => started.map(({ due }) => due - start)).sort((a, b) => a - b);
    // A due time is the schedule's, also when the start was late: latency must count from it.
    for (const [number, due] of dues.entries()) expect(due).to.be.closeTo((number / RATE) * 1e6, 0.01);
    for (const { started } of vus) for (const { due, at } of started) expect(at).to.be.at.least(due - 1);
  });

  it('take the vGPUs in turn', async () => {
    const pattern: Pattern = { kind: 'rate', vus: 8, rate: RATE, durationUs: 200_000 };
    const { vus } = await run({ pattern, vgpus: 4, vus: 64, work: async () => {} });
    const of = (vgpu: number) =>
      vus.filter((vu) => vu.vgpu === vgpu).reduce((sum, { iterations }) => sum + iterations, 0);
    expect([0, 1, 2, 3].map(of)).to.deep.equal([10, 10, 10, 10]);
  });

  it('count an iteration that a stall has delayed from when it was due', async () => {
    const pattern: Pattern = { kind: 'rate', vus: 8, rate: RATE, durationUs: 400_000 };
    const { vus, total, dropped } = await run({
      pattern,
      vus: 128,
      work: async () => {},
      during: async () => {
        await sleep(100);
        const until = nowUs() + 200_000;
        while (nowUs() < until); // stalls the thread
      },
    });
    expect(total + dropped).to.equal(80);
    expect(dropped).to.equal(0);
    const late = vus.flatMap(({ started }) => started).filter(({ due, at }) => at - due > 50_000);
    // All arrivals of the stall but those of its last 50 ms.
    expect(late.length).to.be.at.least(28);
  });

  it('drop an arrival that finds no free VU', async () => {
    const pattern: Pattern = { kind: 'rate', vus: 1, rate: RATE, durationUs: 200_000 };
    const { total, dropped } = await run({ pattern, vus: 1, work: () => sleep(60) });
    expect(total + dropped).to.equal(40);
    expect(dropped).to.be.above(30);
  });

  it('drop what was due before the VM was ready', async () => {
    const pattern: Pattern = { kind: 'rate', vus: 8, rate: RATE, durationUs: 200_000 };
    const { total, dropped } = await run({ pattern, vus: 64, readyUs: 100_000, work: async () => {} });
    expect([total, dropped]).to.deep.equal([20, 20]);
  });

  it('end with the error of an iteration', async () => {
    const pattern: Pattern = { kind: 'rate', vus: 1, rate: RATE, durationUs: 60e6 };
    const work = async () => {
      throw new Error('broken workload');
    };
    const error = await run({ pattern, work }).catch((reason: Error) => reason.message);
    expect(error).to.equal('broken workload');
  });
});
