import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as mem from '#mem';
import { DEVICE_LINK_BYTES } from '../../src/channel/device-link.ts';
import { PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import { POLICIES, type Policy } from '../../src/gpu/policy.ts';
import { jainIndex, usageBetween } from '../../src/gpu/stats.ts';
import { vgpuType } from '../../src/gpu/types.ts';
import { GPU_CONTROL_BYTES, GpuControl, type GpuWorkerTask } from '../fixtures/gpu-worker.ts';
import { until } from '../support/until.ts';

const SLOTS = 4;
/** Time limit for the turns of all threads. A machine with little to do needs less than a second. */
const TURNS_MS = 60_000;
const ENTRY = new URL('../fixtures/gpu-worker.ts', import.meta.url);
const { ld, st, wordsOf } = mem;

/**
 * Runs four threads at one engine until each of them, without the one that dies, has had `turns` turns. The first one
 * dies at piece `dieAt`, if that is not 0.
 */
async function contend(policy: Policy, burst: number, turns: number, dieAt = 0) {
  const gpu = new PhysicalGpu({ policy, sliceUs: 200 });
  for (let slot = 0; slot < SLOTS; slot++)
    gpu.place(`gpu${slot}`, vgpuType('vgpu-4g'), new SharedArrayBuffer(DEVICE_LINK_BYTES));
  const control = new SharedArrayBuffer(GPU_CONTROL_BYTES);
  const threads = Array.from({ length: SLOTS }, (_, slot) => {
    const task: GpuWorkerTask = {
      slot: gpu.handle(slot),
      control,
      burst,
      dieAt: slot === 0 ? dieAt : 0,
    };
    const thread = new Worker(ENTRY, { workerData: task });
    const ended = new Promise<number>((resolve) => {
      thread.once('message', resolve);
      thread.once('exit', () => resolve(-1));
    });
    return { ended };
  });
  await until(() => gpu.stats().every((each) => each.turns > 0), 'a turn of each thread', TURNS_MS);
  const before = gpu.stats();
  const usage = () => usageBetween(before, gpu.stats());
  const alive = () => usage().slice(dieAt > 0 ? 1 : 0);
  await until(() => alive().every((each) => each.turns >= turns), `${turns} turns of each thread`, TURNS_MS);
  const shares = jainIndex(usage().map(({ busyUs }) => busyUs));
  st(wordsOf(control), GpuControl.stop, 1, 'link.word');
  const pieces = await Promise.all(threads.map(({ ended }) => ended));
  return { gpu, shares, pieces, overlaps: ld(wordsOf(control), GpuControl.overlaps, 'link.word') };
}

describe('threads at the engine of a GPU', function () {
  this.timeout(3 * TURNS_MS);

  for (const policy of POLICIES)
    it(`never work at the same time, and none waits without end, under ${policy}`, async () => {
      // The bursts are short, so that most handovers are releases and requests that cross.
      const { gpu, overlaps } = await contend(policy, 3, 20);
      // Two threads may work at once only on a machine so busy that an owner gets no core for LEASE_MS.
      if (gpu.leasesBroken === 0) expect(overlaps).to.equal(0);
    });

  it('share it equally as long as all have work', async () => {
    const { shares } = await contend('equal-share', 1e9, 100);
    expect(shares).to.be.greaterThan(0.98);
  });

  it('continue when one dies while it owns the engine', async () => {
    const { gpu, pieces } = await contend('equal-share', 1e9, 10, 40);
    expect(pieces[0]).to.equal(-1);
    expect(gpu.leasesBroken).to.be.at.least(1);
  });
});
