import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { sleep } from '#host';
import * as mem from '#mem';
import { DEVICE_LINK_BYTES } from '../../src/channel/device-link.ts';
import { PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import { POLICIES, type Policy } from '../../src/gpu/policy.ts';
import { jainIndex, usageBetween } from '../../src/gpu/stats.ts';
import { vgpuType } from '../../src/gpu/types.ts';
import { GPU_CONTROL_BYTES, GpuControl, type GpuWorkerTask } from '../fixtures/gpu-worker.ts';

const SLOTS = 4;
const ENTRY = new URL('../fixtures/gpu-worker.ts', import.meta.url);
const { ld, st, wordsOf } = mem;

/** Runs four threads at one engine for `runMs`. The first one dies at piece `dieAt`, if that is not 0. */
async function contend(policy: Policy, burst: number, runMs: number, dieAt = 0) {
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
  while (gpu.stats().some(({ turns }) => turns === 0)) await sleep(5);
  const before = gpu.stats();
  await sleep(runMs);
  const usage = usageBetween(before, gpu.stats());
  st(wordsOf(control), GpuControl.stop, 1, 'link.word');
  const pieces = await Promise.all(threads.map(({ ended }) => ended));
  return { gpu, usage, pieces, overlaps: ld(wordsOf(control), GpuControl.overlaps, 'link.word') };
}

describe('threads at the engine of a GPU', () => {
  for (const policy of POLICIES)
    it(`never work at the same time, and none waits without end, under ${policy}`, async () => {
      // The bursts are short, so that most handovers are releases and requests that cross.
      const { gpu, usage, overlaps } = await contend(policy, 3, 200);
      // Two threads may work at once only on a machine so busy that an owner gets no core for LEASE_MS.
      if (gpu.leasesBroken === 0) expect(overlaps).to.equal(0);
      for (const { name, turns } of usage) expect(turns, name).to.be.greaterThan(3);
    });

  it('share it equally as long as all have work', async () => {
    const { usage } = await contend('equal-share', 1e9, 300);
    expect(jainIndex(usage.map(({ busyUs }) => busyUs))).to.be.greaterThan(0.98);
  });

  it('continue when one dies while it owns the engine', async () => {
    const { gpu, usage, pieces } = await contend('equal-share', 1e9, 500, 40);
    expect(pieces[0]).to.equal(-1);
    expect(gpu.leasesBroken).to.be.at.least(1);
    for (const { name, turns } of usage.slice(1)) expect(turns, name).to.be.greaterThan(3);
  });
});
