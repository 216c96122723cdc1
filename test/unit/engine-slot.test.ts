/**
 * Leases, hand-overs and accounts of engine slots, one step at a time, on a clock that the test moves.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DeviceLink } from '../../src/channel/device-link.ts';
import { EngineSlot, LEASE_MS } from '../../src/gpu/engine-slot.ts';
import { SLOTS_LIMIT } from '../../src/gpu/layout.ts';
import { PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import type { Policy } from '../../src/gpu/policy.ts';
import { usageBetween, type VgpuStats } from '../../src/gpu/stats.ts';

const SLICE_US = 500;
const SLICE_NS = SLICE_US * 1000;
const LEASE_US = LEASE_MS * 1000;

/** vGPUs with equal shares on one GPU. */
function slots(policy: Policy, count: number, type = { id: 'part', vramMiB: 1, share: 1 / SLOTS_LIMIT }) {
  const gpu = new PhysicalGpu({ policy, sliceUs: SLICE_US });
  const links = Array.from({ length: count }, () => new DeviceLink());
  for (const [i, link] of links.entries()) gpu.place(`gpu${i}`, type, link.sab);
  const clock = { us: 1000 };
  const all = links.map((_, i) => new EngineSlot(gpu.handle(i), () => clock.us));
  const stats = (slot: number) => gpu.stats()[slot] as VgpuStats;
  return { gpu, links, clock, stats, slots: all as [EngineSlot, EngineSlot, EngineSlot] };
}

describe('lease of an engine', () => {
  it('begins anew at a hand-over', () => {
    const { clock, gpu, slots: all } = slots('equal-share', 3);
    const [first, second, third] = all;
    expect(first.acquire()).to.equal('granted');
    for (const other of [second, third]) expect(other.acquire()).to.equal('queued');
    clock.us += LEASE_US - 1;
    first.charge(1, true, false);
    clock.us += 2;
    expect(third.acquire(), 'the second has just been chosen').to.equal('queued');
    expect(second.acquire()).to.equal('granted');
    expect(gpu.leasesBroken).to.equal(0);
  });

  it('is renewed by work', () => {
    const { clock, gpu, slots: all } = slots('equal-share', 2);
    const [first, second] = all;
    first.acquire();
    for (let i = 0; i < 4; i++) {
      clock.us += LEASE_US - 1;
      first.charge(1, false, true);
      expect(second.acquire()).to.equal('queued');
    }
    expect(gpu.leasesBroken).to.equal(0);
  });

  it('ends with the request of an owner that is silent', () => {
    const { clock, stats, slots: all } = slots('equal-share', 2);
    const [silent, second] = all;
    silent.acquire();
    clock.us += LEASE_US + 1;
    expect(second.acquire()).to.equal('granted');
    second.charge(2 * SLICE_NS, true, true);
    expect(second.acquire(), 'nobody else wants it').to.equal('granted');
    expect(stats(0).turns).to.equal(1);
  });

  it('that is over takes the turn from a late owner, which ends no other turn', () => {
    const { clock, stats, slots: all } = slots('equal-share', 2);
    const [late, second] = all;
    late.acquire();
    clock.us += LEASE_US + 1;
    expect(second.acquire()).to.equal('granted');
    late.charge(2 * SLICE_NS, true, true);
    expect(second.acquire()).to.equal('granted');
    expect(late.acquire()).to.equal('queued');
    expect([stats(1).turns, stats(1).clockUs]).to.deep.equal([1, 0]);
  });
});

describe('vGPU that leaves its GPU', () => {
  it('is never chosen again, also after a late request', () => {
    const { gpu, slots: all } = slots('equal-share', 2);
    const [gone, second] = all;
    second.acquire();
    gpu.release(0);
    expect(gone.acquire()).to.equal('queued');
    second.charge(2 * SLICE_NS, true, true);
    expect(second.acquire()).to.equal('granted');
  });

  it('takes the engine from no other', () => {
    const { gpu, stats, slots: all } = slots('equal-share', 3);
    all[1].acquire();
    gpu.release(0);
    expect(all[2].acquire()).to.equal('queued');
    expect(all[1].acquire()).to.equal('granted');
    expect(stats(1).turns).to.equal(1);
  });

  it('leaves a slot that is not used again', () => {
    const type = { id: 'small', vramMiB: 1, share: 1 / 1024 };
    const { gpu } = slots('equal-share', SLOTS_LIMIT, type);
    gpu.release(5);
    expect(gpu.available(type)).to.equal(0);
  });
});

describe('requests for an engine', () => {
  it('are separate for every slot', () => {
    const { slots: all } = slots('equal-share', SLOTS_LIMIT);
    expect(all[1].acquire()).to.equal('granted');
    for (const other of all.slice(2)) expect(other.acquire()).to.equal('queued');
    all[1].charge(1, true, false);
    const order: number[] = [];
    for (let turn = 2; turn < SLOTS_LIMIT; turn++) {
      const owner = all.findIndex((slot, i) => i > 1 && !order.includes(i) && slot.acquire() === 'granted');
      order.push(owner);
      all[owner]!.charge(1, true, false);
    }
    expect(order.sort((a, b) => a - b)).to.deep.equal(all.slice(2).map((_, i) => i + 2));
  });

  it('of a slot beyond its share are answered when the engine becomes free', () => {
    const { links, slots: all } = slots('fixed-share', 2);
    const [first, second] = all;
    expect(second.acquire()).to.equal('granted');
    second.charge(SLICE_NS, true, true);
    expect(second.acquire()).to.equal('retry');
    expect(first.acquire()).to.equal('granted');
    const before = links[1]!.doorbell.sequence;
    first.charge(2 * SLICE_NS, true, true);
    expect(links[1]!.doorbell.sequence).to.not.equal(before);
  });

  it('are waits from the first request on, and from the end of a turn with work left', () => {
    const { stats, slots: all } = slots('equal-share', 2);
    const [first, second] = all;
    first.acquire();
    expect(second.acquire()).to.equal('queued');
    first.charge(SLICE_NS / 2, false, true);
    expect(second.acquire(), 'again').to.equal('queued');
    first.charge(SLICE_NS / 2, false, true);
    expect(second.acquire()).to.equal('granted');
    expect([stats(1).waitedUs, stats(0).preemptions]).to.deep.equal([SLICE_US, 1]);
    second.charge(2 * SLICE_NS, true, true);
    expect(first.acquire()).to.equal('granted');
    expect(stats(0).waitedUs, 'all of the turn of the other').to.equal(2 * SLICE_US);
  });
});

describe('accounts of an engine', () => {
  /** Charges work of one slice at a time until another slot is chosen; returns the slices. */
  const slices = (slot: EngineSlot, limit = 10_000): number => {
    for (let count = 0; count < limit; count++) {
      if (slot.acquire() !== 'granted') return count;
      slot.charge(SLICE_NS, true, true);
    }
    return limit;
  };

  it('keep engine time beyond 2^32 ns', () => {
    const { stats, slots: all } = slots('equal-share', 1);
    for (let i = 0; i < 3; i++) {
      all[0].acquire();
      all[0].charge(2e9, true, true);
    }
    expect([stats(0).busyUs, stats(0).clockUs]).to.deep.equal([6e6, 6e6]);
  });

  it('let a slot that was idle claim at most some slices under equal share', () => {
    const { slots: all } = slots('equal-share', 2);
    const [busy, idle] = all;
    for (let i = 0; i < 100; i++) {
      busy.acquire();
      busy.charge(SLICE_NS, true, true);
    }
    expect(idle.acquire()).to.equal('queued');
    busy.charge(SLICE_NS, true, true);
    expect(slices(idle)).to.be.within(1, 12);
  });

  it('save a bounded part of an unused share under fixed share', () => {
    const { stats, clock, slots: all } = slots('fixed-share', 2);
    const [other, idle] = all;
    for (let i = 0; i < 100; i++) {
      clock.us += 1e6;
      other.acquire();
      other.charge(1, true, false);
    }
    const passed = stats(0).clockUs;
    expect(passed, 'a gap counts 10 ms at most').to.be.within(0.5e6, 1.1e6);
    expect(slices(idle), '50 ms of engine time, at 1/64').to.be.within(1, 4);
  });

  it('start anew with a policy', () => {
    const { gpu, slots: all } = slots('fixed-share', 2);
    const [first, second] = all;
    expect(first.acquire()).to.equal('granted');
    first.charge(SLICE_NS, true, false);
    gpu.schedule({ policy: 'equal-share', sliceUs: SLICE_US });
    expect(second.acquire()).to.equal('granted');
    expect(first.acquire()).to.equal('queued');
    second.charge(SLICE_NS, true, true);
    expect(first.acquire(), 'its use counted 64 times does not count').to.equal('granted');
  });

  it('let a command end its turn under best effort', () => {
    const { slots: all } = slots('best-effort', 2);
    const [first, second] = all;
    second.acquire();
    expect(first.acquire()).to.equal('queued');
    for (let i = 0; i < 100; i++) second.charge(SLICE_NS, false, true);
    expect(first.acquire()).to.equal('queued');
    second.charge(SLICE_NS, true, true);
    expect(first.acquire()).to.equal('granted');
  });

  it('count between two readings', () => {
    const { gpu, slots: all } = slots('equal-share', 2);
    const [first, second] = all;
    const wait = (ns: number) => {
      first.acquire();
      second.acquire();
      first.charge(ns, true, false);
      second.acquire();
      second.charge(1, true, false);
    };
    for (let i = 0; i < 20; i++) wait(100 * SLICE_NS);
    const before = gpu.stats();
    wait(SLICE_NS);
    const [, usage] = usageBetween(before, gpu.stats());
    expect(usage).to.include({ turns: 1, commands: 1 });
    expect(usage?.waitP99Us).to.be.within(SLICE_US, 1.1 * SLICE_US);
  });
});
