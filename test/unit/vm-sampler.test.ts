/**
 * Samples of a VM's devices: pages, cached translations, waits for the engine and fairness.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { Prng } from '#host';
import { Opcode } from '../../src/abi/vgpu/vgpu.ts';
import { DeviceLink, DeviceState } from '../../src/channel/device-link.ts';
import type { Placement } from '../../src/coordinator/gpu-pool.ts';
import { type DeviceOwner, VmDevice } from '../../src/coordinator/vm/device.ts';
import { VmSampler, waitsBetween } from '../../src/coordinator/vm/vm-sampler.ts';
import { HeldPages } from '../../src/device/held-pages.ts';
import { EngineSlot } from '../../src/gpu/engine-slot.ts';
import { bucketUs, waitBucket } from '../../src/gpu/layout.ts';
import { PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import type { VgpuStats } from '../../src/gpu/stats.ts';
import { type Hpa, type Iova, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { BusMemory } from '../../src/memory/bus-memory.ts';
import { GuestRam } from '../../src/memory/guest-ram.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { Fairness } from '../../src/scenario/fairness.ts';
import { DrivenVgpu } from '../fixtures/driven-vgpu.ts';

const MIB = 2 ** 20;
const TYPE = { id: 'half', vramMiB: 1, share: 1 / 2 };

/** Two devices on one GPU, and a third one without a GPU. */
function rig() {
  const ram = GuestRam.allocate(HPA_BASE as Hpa, 2 * MIB, 2 * MIB, new Prng(1));
  const owner: DeviceOwner = {
    header: (device) => ({ timeUs: 0, process: 0, vm: 0, device }),
    sent: () => {},
    switched: () => {},
    quarantine: async () => {},
    lose: (error) => expect.fail(String(error)),
  };
  const gpu = new PhysicalGpu({ policy: 'best-effort', sliceUs: 1000 });
  const devices = [0, 1, 2].map(
    (i) => new VmDevice(i, `vm0/gpu${i}`, 8 * i, new BusMemory(ram, true), owner),
  );
  const slots: Placement[] = devices
    .slice(0, 2)
    .map(({ name, link }) => ({ gpu, slot: gpu.place(name, TYPE, link.sab) }));
  for (const { link } of devices) link.setState(DeviceState.ready);
  const sampler = new VmSampler(devices, slots, ({ gpu: { statsOf }, slot }) => statsOf.call(gpu, slot));
  const engines = slots.map(({ slot }) => new EngineSlot(gpu.handle(slot), () => 0));
  return { devices, sampler, engines: engines as [EngineSlot, EngineSlot] };
}

const valuesOf = ({ changes }: ReturnType<VmSampler['take']>, name: string) =>
  changes
    .filter((change) => change.name === name)
    .map(({ tags, count, sum, last, type }) => [
      tags.vgpu,
      type === 'gauge' ? last : type === 'rate' ? `${sum}/${count}` : `${count}: ${sum}`,
    ]);

describe('a sample of a VM', () => {
  it('has the mapped and pinned pages of each device', () => {
    const { devices, sampler } = rig();
    devices[0]?.container.map(0 as Iova, 0, 5 * PAGE_SIZE, PERM_RW);
    devices[2]?.link.setUse({ pinnedPages: 7, hits: 0, misses: 0 });
    const sample = sampler.take();
    expect(valuesOf(sample, 'mapped_pages')).to.deep.equal([
      ['0', 5],
      ['1', 0],
      ['2', 0],
    ]);
    expect(valuesOf(sample, 'pinned_pages')).to.deep.equal([
      ['0', 0],
      ['1', 0],
      ['2', 7],
    ]);
    devices[1]?.fail('lost');
    expect(valuesOf(sampler.take(), 'mapped_pages').map(([vgpu]) => vgpu)).to.deep.equal(['0', '2']);
  });

  it('has the cached translations since the last one, also when the counts wrap', () => {
    const { devices, sampler } = rig();
    const set = (hits: number, misses: number) => devices[1]?.link.setUse({ pinnedPages: 0, hits, misses });
    set(30, 10);
    expect(valuesOf(sampler.take(), 'iotlb_hits')).to.deep.equal([['1', '30/40']]);
    set(2 ** 32 - 1, 10);
    sampler.take();
    set(2 ** 32 + 4, 12);
    expect(valuesOf(sampler.take(), 'iotlb_hits')).to.deep.equal([['1', '5/7']]);
    expect(valuesOf(sampler.take(), 'iotlb_hits'), 'nothing since').to.deep.equal([]);
  });

  it('has the use of the engines and the waits for them since the last one', () => {
    const { sampler, engines } = rig();
    const [first, second] = engines;
    first.acquire();
    second.acquire();
    first.charge(300_000, true, false);
    second.acquire();
    second.charge(100_000, true, false);
    const sample = sampler.take();
    expect(valuesOf(sample, 'gpu_busy')).to.deep.equal([
      ['0', 0.75],
      ['1', 0.25],
    ]);
    expect(sample.engineUse).to.deep.equal([600_000, 200_000]);
    expect(valuesOf(sample, 'gpu_wait')).to.deep.equal([
      ['0', '1: 0'],
      ['1', '1: 300'],
    ]);
    const idle = sampler.take();
    expect([valuesOf(idle, 'gpu_busy'), valuesOf(idle, 'gpu_wait'), idle.engineUse]).to.deep.equal([
      [],
      [],
      [],
    ]);
  });

  it('of devices that have stopped has no gauges', () => {
    const { sampler, engines } = rig();
    engines[0].acquire();
    engines[0].charge(1000, true, false);
    const { changes, engineUse } = sampler.take(true);
    expect([changes.map(({ name }) => name), engineUse]).to.deep.equal([['gpu_wait'], []]);
  });
});

describe('waits for an engine', () => {
  const NO_STATS = {
    name: '',
    gpu: 0,
    type: '',
    share: 1,
    clockUs: 0,
    busyUs: 0,
    turns: 0,
    preemptions: 0,
    commands: 0,
  };

  it('become percentiles within 1 % of those of the raw waits', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 1, max: 2 ** 23, noNaN: true }), { minLength: 1, maxLength: 300 }),
        fc.integer({ min: 1, max: 100 }),
        (waits, p) => {
          const counts: number[] = [];
          for (const us of waits) {
            const bucket = waitBucket(us * 1000);
            counts[bucket] = (counts[bucket] ?? 0) + 1;
          }
          const now: VgpuStats = {
            ...NO_STATS,
            waitedUs: waits.reduce((sum, us) => sum + us, 0),
            waits: Array.from(counts, (count = 0) => count),
          };
          const samples = waitsBetween(undefined, now);
          const sorted = waits.toSorted((a, b) => a - b);
          const raw = sorted[Math.ceil((p / 100) * waits.length) - 1] as number;
          expect(samples.percentile(p)).to.be.within(raw * 0.99, raw * 1.01);
          expect([samples.count, samples.sum]).to.deep.equal([waits.length, now.waitedUs]);
          expect(waitsBetween(now, now).count).to.equal(0);
        },
      ),
    );
  });

  it('have buckets without gaps', () => {
    for (let bucket = 1; bucket < 3000; bucket++) {
      const above = bucketUs(bucket) * 1000 * (1 + 1e-12);
      expect(waitBucket(above), `above bucket ${bucket}`).to.equal(bucket + 1);
    }
  });
});

describe('pages that a device holds', () => {
  it('count once, however often they are pinned', () => {
    const held = new HeldPages({ base: 0, size: 16 * PAGE_SIZE } as ConstructorParameters<
      typeof HeldPages
    >[0]);
    for (const pfn of [3, 3, 5, 99]) held.add(pfn);
    expect([held.pins, held.pages]).to.deep.equal([4, 3]);
    for (const pfn of [3, 99]) held.remove(pfn);
    expect([held.pins, held.pages]).to.deep.equal([2, 2]);
    for (const pfn of [3, 5]) held.remove(pfn);
    expect([held.pins, held.pages]).to.deep.equal([0, 0]);
  });

  it('and cached translations are counted by a vgpu', async () => {
    const vgpu = new DrivenVgpu();
    try {
      await vgpu.driver.start();
      await vgpu.buffer(0, 2);
      const fill = () =>
        vgpu.driver.submit({ opcode: Opcode.fill, target: 0, length: 2 * PAGE_SIZE, value: 1 });
      await fill();
      expect(vgpu.instance.model.translations).to.deep.equal({ hits: 0, misses: 2 });
      await fill();
      expect(vgpu.instance.model.translations).to.deep.equal({ hits: 2, misses: 2 });
      expect(vgpu.instance.dma.pinnedPages).to.equal(2);
    } finally {
      await vgpu.stop();
    }
  });
});

describe('fairness in a second', () => {
  it('is that of the engine time for the share, over all VMs of a group', () => {
    const fairness = new Fairness();
    fairness.add(0, 'a', [10, 30]);
    fairness.add(1, 'a', [20]);
    fairness.add(2, 'b', [5]);
    const taken = new Map(fairness.take());
    expect(taken.get('a')).to.be.closeTo(60 ** 2 / (3 * (100 + 900 + 400)), 1e-12);
    expect(taken.get('b')).to.equal(1);
  });

  it('waits until each VM of the group has a sample, and takes their averages', () => {
    const fairness = new Fairness();
    fairness.add(0, 'a', [10]);
    fairness.add(1, 'a', [10]);
    fairness.take();
    fairness.add(0, 'a', [20]);
    expect(fairness.take(), 'VM 1 has none').to.deep.equal([]);
    fairness.add(0, 'a', [40]);
    fairness.add(1, 'a', [30]);
    expect(fairness.take()).to.deep.equal([['a', 1]]);
  });

  it('has no value while nothing runs, and forgets VMs that have ended', () => {
    const fairness = new Fairness();
    fairness.add(0, 'a', [0, 0]);
    expect(fairness.take()).to.deep.equal([]);
    fairness.add(0, 'a', [1, 3]);
    fairness.delete(0);
    expect(fairness.take()).to.deep.equal([]);
  });
});

describe('the use of a container on a device link', () => {
  it('is what the device has published last', () => {
    const link = new DeviceLink();
    expect(link.use).to.deep.equal({ pinnedPages: 0, hits: 0, misses: 0 });
    link.setUse({ pinnedPages: 3, hits: 2 ** 31 + 1, misses: 5 });
    expect(new DeviceLink(link.sab).use).to.deep.equal({ pinnedPages: 3, hits: 2 ** 31 + 1, misses: 5 });
    expect(link.interruptCounts.every((count) => count === 0)).to.equal(true);
  });
});
