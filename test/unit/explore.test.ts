import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { before, describe, it } from 'mocha';
import { firstDifference, replay, runCampaign } from '../../src/explore/campaign.ts';
import { Coverage } from '../../src/explore/coverage.ts';
import type { Harness } from '../../src/explore/harness.ts';
import { KERNELS } from '../../src/explore/kernels/index.ts';
import { countTurns, minimise } from '../../src/explore/minimise.ts';
import { scheduleTable } from '../../src/explore/schedule-table.ts';
import { ReplayError } from '../../src/explore/strategy/guided.ts';
import { createStrategy, STRATEGIES, type StrategyName } from '../../src/explore/strategy/strategies.ts';
import { loadTarget, placeOfTarget } from '../../src/explore/target.ts';
import { loadIntoModel, ModelLoadError } from '../../src/explore/transform/loader.ts';
import { loadCorrect, loadFaulty } from '../corpus/load.ts';
import { SEVEN } from '../corpus/pin-table.ts';

const SMALL = new URL('../fixtures/explore/small.ts', import.meta.url).href;

describe('exploration of schedules', () => {
  let small: Readonly<Record<string, Harness>>;
  before(async () => {
    small = (await loadIntoModel(SMALL)) as Record<string, Harness>;
  });
  const harness = (name: string): Harness => {
    const found = small[name];
    if (!found) throw new Error(`no harness ${name}`);
    return found;
  };
  const run = (name: string, strategy: StrategyName, more: { weak?: boolean; seed?: number } = {}) =>
    runCampaign(harness(name), { strategy, seed: 1, schedules: 1000, preemptions: 4, ...more });

  it('runs each construct of the sources in the model as in production', () => {
    expect(run('constructs', 'dfs').failure?.violation).to.equal(undefined);
  });

  it('counts the schedules of two writes: one for each order of conflicting steps', () => {
    expect(run('sameWord', 'dfs')).to.include({ schedules: 2, exhausted: true });
    expect(run('otherWord', 'dfs')).to.include({ schedules: 1, exhausted: true });
  });

  for (const strategy of STRATEGIES)
    it(`finds a lost update and a lost wake (${strategy})`, () => {
      expect(run('lostUpdate', strategy).failure?.violation).to.include({
        rule: 'counter',
        message: '1 instead of 2',
      });
      const { violation } = run('lostWake', strategy).failure ?? {};
      expect(violation?.rule).to.equal('lost-wake');
      expect(violation?.message).to.match(/sleeper sleeps at bell, word \d+/);
    });

  it('ends a wait by its time limit where the harness allows it', () => {
    expect(run('timeLimit', 'dfs')).to.include({ failure: undefined, exhausted: true });
  });

  it('names a thread that makes no progress', () => {
    expect(run('spins', 'random').failure?.violation?.rule).to.equal('no-progress');
  });

  it('shows that a copy is not atomic', () => {
    expect(run('tornCopy', 'bounded').failure?.violation?.rule).to.equal('whole copy');
  });

  it('lets a thread die between any two of its steps', () => {
    const { violation } = run('death', 'bounded').failure ?? {};
    expect(violation).to.include({ rule: 'released', message: 'claimed, died: 1' });
  });

  it('lets plain loads return older values in weak memory alone, and orders them by atomic accesses', () => {
    expect(run('message', 'dfs')).to.include({ failure: undefined, exhausted: true });
    expect(run('message', 'dfs', { weak: true }).failure?.violation?.message).to.equal('0 instead of 42');
    expect(run('orderedMessage', 'dfs', { weak: true })).to.include({ failure: undefined, exhausted: true });
  });

  it('repeats each schedule for an equal seed, and differs for another', () => {
    for (const strategy of ['random', 'pct', 'pos', 'surw'] as const) {
      const hash = (seed: number) => run('orderedMessage', strategy, { seed }).hash;
      expect(hash(7)).to.equal(hash(7));
      expect(hash(7)).to.not.equal(hash(8));
    }
  });

  it('replays a failure exactly, and refuses choices that are not possible', () => {
    const { failure } = run('lostWake', 'random');
    expect(failure).to.not.equal(undefined);
    expect(replay(harness('lostWake'), failure!.choices)).to.deep.include({
      hash: failure!.hash,
      violation: failure!.violation,
    });
    expect(() => replay(harness('lostWake'), [0, 0, 0, 0, 0, 0, 0])).to.throw(ReplayError);
  });

  it('finds the first step at which two executions of one schedule differ', () => {
    const strategy = () => createStrategy('random', 1);
    expect(firstDifference(harness('lostUpdate'), strategy)).to.equal(undefined);
    const difference = firstDifference(harness('leaks'), strategy);
    expect(difference).to.include({ step: 1 });
    expect(difference?.first).to.match(/^one: leak add w\d+, \d+: 0$/);
    expect(difference?.second).to.not.equal(difference?.first);
  });

  it('counts the pairs of conflicting steps, and names those seen in one order only', () => {
    const coverage = new Coverage();
    runCampaign(harness('orderedMessage'), { strategy: 'dfs', seed: 1, schedules: 1000, coverage });
    expect(coverage.pairs).to.equal(2);
    expect(coverage.oneOrder, 'the flag orders the message').to.deep.equal(['message wr → message rd']);
  });

  it('minimises a failure and shows it as a table', () => {
    const { failure } = run('lostUpdate', 'random', { seed: 3 });
    const shortest = minimise(harness('lostUpdate'), failure!, false);
    expect(countTurns(shortest.choices)).to.equal(3);
    const table = scheduleTable(replay(harness('lostUpdate'), shortest.choices));
    expect(table.split('\n')[0]).to.match(/one +│ two/);
    expect(table).to.match(/✗ counter: 1 instead of 2$/);
  });

  it('names what a file lacks', async () => {
    const missing = new URL('../fixtures/explore/missing.ts', import.meta.url).href;
    expect(await loadIntoModel(missing).catch((error: unknown) => error)).to.be.instanceOf(ModelLoadError);
    const patch = { file: 'explore/smal.ts', find: 'x', replace: 'y' };
    const error = await loadIntoModel(SMALL, [patch]).catch((reason: unknown) => reason);
    expect((error as Error).message).to.equal(
      'explore/smal.ts is not part of this harness; nearest: small.ts',
    );
  });
});

describe('kernels of the sources', () => {
  it('have no torn counters in any schedule: a journal and a time of the engine had them', async () => {
    for (const kernel of ['journal-counter', 'engine-clock']) {
      const [named] = await loadTarget(placeOfTarget(kernel));
      const { failure, exhausted } = runCampaign(named!.harness, {
        strategy: 'dfs',
        seed: 1,
        schedules: 100_000,
      });
      expect(failure?.violation).to.equal(undefined);
      expect(exhausted).to.equal(true);
    }
  });

  for (const kernel of Object.keys(KERNELS))
    it(`survive all schedules with at most 1 preemption (${kernel})`, async () => {
      const [named] = await loadTarget(placeOfTarget(kernel));
      const { failure, exhausted } = runCampaign(named!.harness, {
        strategy: 'bounded',
        seed: 1,
        schedules: 100_000,
        preemptions: 1,
      });
      expect(failure?.violation).to.equal(undefined);
      expect(exhausted).to.equal(true);
    });
});

describe('a harness of a device model', () => {
  it('finds a device that reads a page after it has unpinned it', async () => {
    const path = fileURLToPath(new URL('../fixtures/explore/early-unpin-harness.ts', import.meta.url));
    const [named] = await loadTarget(placeOfTarget(path));
    const { failure } = runCampaign(named!.harness, { strategy: 'pos', seed: 1, schedules: 2000 });
    expect(failure?.violation?.rule).to.equal('use-after-unpin');
  });
});

describe('the seven planted races of the pin table', () => {
  for (const entry of SEVEN)
    it(`${entry.id} is found by partial-order sampling, and replays`, async () => {
      const faulty = await loadFaulty(entry);
      const { failure } = runCampaign(faulty, { strategy: 'pos', seed: 1, schedules: entry.budget });
      expect(entry.rules).to.include(failure?.violation?.rule);
      expect(replay(faulty, failure!.choices).hash).to.equal(failure!.hash);
    });

  it('are not in the sources', async () => {
    for (const place of new Set(SEVEN.map(({ harness }) => harness))) {
      const entry = SEVEN.find(({ harness }) => harness === place)!;
      const correct = await loadCorrect(entry);
      const { failure } = runCampaign(correct, { strategy: 'pos', seed: 1, schedules: entry.budget });
      expect(failure?.violation).to.equal(undefined);
    }
  });
});
