/**
 * Schedules of the model on real threads, in the order of the turnstile.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runCampaign } from '../../src/explore/campaign.ts';
import type { RunResult } from '../../src/explore/model/run.ts';
import { loadTarget, type NamedHarness, placeOfTarget, type TargetPlace } from '../../src/explore/target.ts';
import type { Patch } from '../../src/explore/transform/patch.ts';
import { Turnstile } from '../../src/explore/turnstile.ts';
import { SEVEN } from '../corpus/pin-table.ts';

const ROOT = new URL('../../', import.meta.url);

/** Runs `body` with the threads of a harness. */
async function onThreads(
  place: TargetPlace,
  patches: readonly Patch[],
  body: (named: NamedHarness, turnstile: Turnstile) => void,
): Promise<void> {
  const [named] = await loadTarget(place, patches);
  const turnstile = new Turnstile(named!, place, patches);
  try {
    await turnstile.loaded();
    body(named!, turnstile);
  } finally {
    await turnstile.close();
  }
}

describe('schedules on real threads', () => {
  for (const kernel of ['dma-sections', 'pins', 'unmaps', 'dirty-writes', 'frame-ring', 'engine-turns'])
    it(`have the traces of the model (${kernel})`, () =>
      onThreads(placeOfTarget(kernel), [], ({ harness }, turnstile) => {
        const runs: RunResult[] = [];
        runCampaign(harness, { strategy: 'random', seed: 5, schedules: 12 }, (result) => runs.push(result));
        for (const { hash, steps, choices } of runs)
          expect(turnstile.run(choices)).to.deep.equal({ hash, steps, violation: '' });
      }));

  for (const entry of SEVEN)
    it(`repeat the failure of ${entry.id}`, async () => {
      const [path = '', only = ''] = entry.harness.split('#');
      const patches = entry.patches ?? [];
      await onThreads({ url: new URL(path, ROOT).href, only }, patches, ({ harness }, turnstile) => {
        const { failure } = runCampaign(harness, { strategy: 'pos', seed: 1, schedules: entry.budget });
        const { violation, hash, steps, choices } = failure!;
        const byThread = violation?.thread === undefined ? '' : `${violation.rule}: ${violation.message}`;
        expect(turnstile.run(choices)).to.deep.equal({ hash, steps, violation: byThread });
      });
    });

  it('refuse a harness with deaths of threads', async () => {
    const place = { url: new URL('test/fixtures/explore/small.ts', ROOT).href, only: 'death' };
    const [named] = await loadTarget(place);
    expect(() => new Turnstile(named!, place)).to.throw('deaths of threads');
  });
});
