/**
 * Served vGPUs that share a physical GPU: they take turns at its engine, and the engine of one that has died is free.
 */
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import { Served } from '../fixtures/served-devices.ts';
import { ServedVgpu } from '../fixtures/served-vgpu.ts';
import { until } from '../support/until.ts';

/** Commands of each vGPU: together more engine time than a turn has. */
const COMMANDS = 60;

describe('served vGPUs on one physical GPU', function () {
  this.timeout(60_000);
  let served: Served;
  afterEach(() => served.stop());

  it('take turns while both have work, and are charged for what they do', async () => {
    served = await Served.start('vgpu', 2, undefined, undefined, { gpuPolicy: 'equal-share' });
    const vgpus = [new ServedVgpu(served, 0), new ServedVgpu(served, 1)] as const;
    expect([0, 1].map((index) => served.gpuStats(index).gpu)).to.deep.equal([0, 0]);
    const stats = () => [served.gpuStats(0), served.gpuStats(1)] as const;
    const submitted = [0, 0];
    const keepBusy = () => {
      for (const [index, vgpu] of vgpus.entries())
        if (vgpu.isIdle) {
          vgpu.submitFills(COMMANDS, 0x1111 * (index + 1));
          submitted[index] = (submitted[index] as number) + COMMANDS;
        }
    };
    await until(() => {
      keepBusy();
      return stats().every(({ preemptions }) => preemptions > 0);
    }, 'each has lost the engine with work left');
    await until(() => vgpus.every(({ isIdle }) => isIdle), 'all commands complete');
    for (const [index, vgpu] of vgpus.entries()) expect(vgpu.isFilled(0x1111 * (index + 1))).to.equal(true);
    const [first, second] = stats();
    expect([first.commands, second.commands]).to.deep.equal(submitted);
    // Equal commands cost equal engine time, and the engine is one.
    expect(first.busyUs / first.commands).to.be.closeTo(second.busyUs / second.commands, 1);
    expect(first.busyUs + second.busyUs).to.be.at.most(first.clockUs + 1);
    expect(Math.min(first.turns, second.turns)).to.be.greaterThan(1);
  });

  it('leave the engine to the others when their worker dies', async () => {
    served = await Served.start('vgpu', 2);
    const [dying, other] = [new ServedVgpu(served, 0), new ServedVgpu(served, 1)];
    dying.submitFills(COMMANDS, 1);
    served.worker(0).end('ended by the test');
    other.submitFills(COMMANDS, 2);
    await until(() => other.isIdle, 'the commands of the other complete');
    expect(other.isFilled(2)).to.equal(true);
    expect(served.gpuStats(1).commands).to.equal(COMMANDS);
  });
});
