import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DEVICE_LINK_BYTES, DeviceLink } from '../../src/channel/device-link.ts';
import { GpuPool } from '../../src/coordinator/gpu-pool.ts';
import { EngineSlot, LEASE_MS } from '../../src/gpu/engine-slot.ts';
import { bucketUs, SLOTS_LIMIT, WAIT_BUCKETS, waitBucket } from '../../src/gpu/layout.ts';
import { GpuFullError, PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import { DEFAULT_SCHEDULING, type Policy } from '../../src/gpu/policy.ts';
import { jainIndex, usageBetween, type VgpuUsage } from '../../src/gpu/stats.ts';
import { VGPU_TYPES, vgpuType } from '../../src/gpu/types.ts';

const PIECE_NS = 16_000;
const SLICE_US = 500;

/** Work of a simulated vGPU. */
interface Load {
  readonly type: string;
  /** Pieces of a command. */
  readonly pieces: number;
  /** The maximum of commands in its ring. */
  readonly depth: number;
  /** Commands per µs of the simulated clock. With Infinity, the ring is refilled whenever it is empty. */
  readonly perUs: number;
}

/** Slots in one thread that try the engine in turn. Pieces of work and idle rounds advance the clock. */
class Simulation {
  readonly gpu: PhysicalGpu;
  readonly slots: EngineSlot[] = [];
  readonly #loads: readonly Load[];
  readonly #queued: number[];
  readonly #done: number[];
  readonly #arrived: number[];
  nowUs = 2 ** 31 - 5e5; // the lease's words wrap in every run

  constructor(policy: Policy, loads: readonly Load[]) {
    this.gpu = new PhysicalGpu({ policy, sliceUs: SLICE_US });
    this.#loads = loads;
    this.#queued = loads.map(() => 0);
    this.#done = loads.map(() => 0);
    this.#arrived = loads.map(() => 0);
    loads.forEach((load, i) => {
      this.gpu.place(`gpu${i}`, vgpuType(load.type), new SharedArrayBuffer(DEVICE_LINK_BYTES));
    });
    loads.forEach((_, i) => {
      this.slots.push(new EngineSlot(this.gpu.handle(i), () => this.nowUs));
    });
  }

  run(us: number): VgpuUsage[] {
    const before = this.gpu.stats();
    for (const end = this.nowUs + us; this.nowUs < end; ) {
      const started = this.nowUs;
      this.slots.forEach((_, i) => {
        this.#arrive(i, us);
        this.#step(i);
      });
      if (this.nowUs === started) this.nowUs += 20; // no slot ran
    }
    return usageBetween(before, this.gpu.stats());
  }

  #arrive(i: number, us: number): void {
    const { depth, perUs } = this.#loads[i] as Load;
    if (perUs === Number.POSITIVE_INFINITY && this.#queued[i] !== 0) return;
    const due = perUs === Number.POSITIVE_INFINITY ? Number.POSITIVE_INFINITY : Math.floor(us * perUs);
    while ((this.#queued[i] as number) < depth && (this.#arrived[i] as number) < due) {
      this.#queued[i]!++;
      this.#arrived[i]!++;
    }
  }

  #step(i: number): void {
    const slot = this.slots[i] as EngineSlot;
    if (this.#queued[i] === 0) slot.release();
    else if (slot.acquire() === 'granted') this.#work(i, slot);
  }

  #work(i: number, slot: EngineSlot): void {
    this.nowUs += PIECE_NS / 1000;
    const ends = ++this.#done[i]! % (this.#loads[i] as Load).pieces === 0;
    if (ends) this.#queued[i]!--;
    slot.charge(PIECE_NS, ends, (this.#queued[i] as number) > 0);
  }
}

const modest = (type = 'vgpu-1g'): Load => ({ type, pieces: 8, depth: 4, perUs: Number.POSITIVE_INFINITY });
const greedy = (type = 'vgpu-1g'): Load => ({ type, pieces: 64, depth: 32, perUs: Number.POSITIVE_INFINITY });
const sixteen = [greedy(), ...Array.from({ length: 15 }, () => modest())];
const jain = (usage: readonly VgpuUsage[]) => jainIndex(usage.map(({ busyUs }) => busyUs));

describe('scheduler of a physical GPU', () => {
  it('grants equal time under equal share, even to a greedy vGPU', () => {
    const usage = new Simulation('equal-share', sixteen).run(400_000);
    expect(jain(usage)).to.be.greaterThan(0.995);
    expect(usage[0]?.preemptions).to.be.greaterThan(10);
    expect(usage[1]?.waitP99Us).to.be.below(15 * SLICE_US * 1.5);
  });

  it('grants a greedy vGPU more time under best effort, and starves none', () => {
    const usage = new Simulation('best-effort', sixteen).run(400_000);
    expect(jain(usage)).to.be.below(0.8);
    for (const { busyUs } of usage) expect(busyUs).to.be.greaterThan(400_000 / 64);
  });

  it('divides time by shares under fixed share, and uses them as caps', () => {
    const loads = [
      greedy('vgpu-4g'),
      modest('vgpu-2g'),
      modest('vgpu-1g'),
      modest('vgpu-1g'),
      greedy('vgpu-512m'),
    ];
    const usage = new Simulation('fixed-share', loads).run(2_000_000);
    for (const { name, part, share } of usage) expect(part / share, name).to.be.within(0.97, 1.03);
    const alone = new Simulation('fixed-share', [greedy('vgpu-1g')]).run(1_000_000);
    expect(alone[0]?.part, 'on an engine without other users').to.be.within(0.97 / 16, 1.08 / 16);
  });

  it('passes unused time to other vGPUs, except under fixed share', () => {
    const loads = [greedy(), { ...modest(), perUs: 0 }, { ...modest(), perUs: 1 / 4000 }];
    const busy = (policy: Policy) => new Simulation(policy, loads).run(400_000).map(({ busyUs }) => busyUs);
    for (const policy of ['best-effort', 'equal-share'] as const) {
      const [first, none, little] = busy(policy) as [number, number, number];
      expect(none, policy).to.equal(0);
      expect(little, policy).to.be.within(11_000, 14_000);
      expect(first + little, policy).to.be.greaterThan(395_000);
    }
    expect(busy('fixed-share')[0]).to.be.below(400_000 / 16 + 5_000);
  });

  it('changes the policy under load, and starts new accounts', () => {
    const simulation = new Simulation('best-effort', sixteen);
    simulation.run(200_000);
    simulation.gpu.schedule({ policy: 'equal-share', sliceUs: SLICE_US });
    expect(jain(simulation.run(400_000))).to.be.greaterThan(0.99);
  });
});

describe('engine slot', () => {
  const pair = () => {
    const gpu = new PhysicalGpu({ policy: 'equal-share', sliceUs: SLICE_US });
    const links = [new DeviceLink(), new DeviceLink()];
    links.forEach((link, i) => {
      gpu.place(`gpu${i}`, vgpuType('vgpu-1g'), link.sab);
    });
    const clock = { us: 1000 };
    const slots = links.map((_, i) => new EngineSlot(gpu.handle(i), () => clock.us));
    return { gpu, links, clock, first: slots[0] as EngineSlot, second: slots[1] as EngineSlot };
  };

  it('rings the next slot when it releases the engine', () => {
    const { links, first, second } = pair();
    expect(first.acquire()).to.equal('granted');
    expect(second.acquire()).to.equal('queued');
    const before = links[1]?.doorbell.sequence;
    first.charge(PIECE_NS, true, false);
    expect(links[1]?.doorbell.sequence).to.not.equal(before);
    expect(second.acquire()).to.equal('granted');
    expect(first.acquire()).to.equal('queued');
  });

  it('acquires the engine on request after another slot has released it', () => {
    const { first, second } = pair();
    for (let i = 0; i < 5; i++) {
      expect(first.acquire()).to.equal('granted');
      first.release();
      expect(second.acquire()).to.equal('granted');
      second.charge(PIECE_NS, true, false);
    }
  });

  it('passes the engine on when it has no more work', () => {
    const { first, second } = pair();
    first.acquire();
    second.acquire();
    first.charge(PIECE_NS, true, false); // hands over
    second.release();
    expect(first.acquire()).to.equal('granted');
  });

  it('skips an owner whose lease has ended, and the late owner detects it', () => {
    const { gpu, clock, first, second } = pair();
    first.acquire();
    clock.us += LEASE_MS * 1000;
    expect(second.acquire(), 'at the end of the lease').to.equal('queued');
    clock.us += 1;
    expect(second.acquire(), 'after it').to.equal('granted');
    expect(gpu.leasesBroken).to.equal(1);
    first.charge(PIECE_NS, false, true);
    expect(first.acquire()).to.equal('queued');
    second.charge(PIECE_NS, false, true);
    expect(second.acquire()).to.equal('granted');
  });

  it('rings the other slots at once when the host releases an owner', () => {
    const { gpu, links, first, second } = pair();
    first.acquire();
    second.acquire();
    const before = links[1]?.doorbell.sequence;
    gpu.release(0);
    expect(links[1]?.doorbell.sequence).to.not.equal(before);
    expect(second.acquire()).to.equal('granted');
    expect(gpu.leasesBroken).to.equal(0);
  });
});

describe('physical GPU', () => {
  const link = new SharedArrayBuffer(DEVICE_LINK_BYTES);

  it('holds as many vGPUs of a type as memory and engine allow', () => {
    const available = (gpu: PhysicalGpu) => VGPU_TYPES.map((type) => gpu.available(type));
    const gpu = new PhysicalGpu();
    expect(available(gpu)).to.deep.equal([32, 16, 8, 4, 2, 1]);
    gpu.place('a', vgpuType('vgpu-4g'), link);
    gpu.place('b', vgpuType('vgpu-512m'), link);
    expect(available(gpu)).to.deep.equal([23, 11, 5, 2, 1, 0]);
    expect(() => gpu.place('c', vgpuType('vgpu-16g'), link)).to.throw(GpuFullError, /c: no room/);
    gpu.release(0);
    expect(available(gpu)).to.deep.equal([31, 15, 7, 3, 1, 0]);
    const small = { id: 'small', vramMiB: 1, share: 1 / 1024 };
    const many = new PhysicalGpu();
    for (let i = 0; i < SLOTS_LIMIT; i++) many.place(`${i}`, small, link);
    expect(many.available(small), 'a slot each').to.equal(0);
  });

  it('maps the type of an mdev instance or virtual function to a vGPU type', () => {
    const pool = new GpuPool({ ...DEFAULT_SCHEDULING, types: ['vgpu-512m'] });
    const place = (mdevType?: string) => {
      const name = `gpu-${mdevType}`;
      const { gpu } = pool.place(name, 0, new SharedArrayBuffer(DEVICE_LINK_BYTES), mdevType);
      return gpu.stats(0).find((stats) => stats.name === name)?.type;
    };
    expect([place('vgpu-4g'), place('1005'), place('vgpu-1'), place()]).to.deep.equal([
      'vgpu-4g',
      'vgpu-16g',
      'vgpu-512m',
      'vgpu-512m',
    ]);
  });

  it('drops the GPUs that a VM has left, and keeps the numbers of the others', () => {
    const pool = new GpuPool({ ...DEFAULT_SCHEDULING, types: ['vgpu-16g'] });
    const place = (name: string) => pool.place(name, 0, new SharedArrayBuffer(DEVICE_LINK_BYTES));
    const [first, second] = [place('first'), place('second')];
    pool.handle(first);
    pool.forget([first, undefined]);
    expect(pool.stats().map(({ name, gpu }) => [name, gpu])).to.deep.equal([
      ['first', 0],
      ['second', 1],
    ]);
    first.gpu.release(first.slot);
    pool.forget([first]);
    expect(pool.stats().map(({ name, gpu }) => [name, gpu])).to.deep.equal([['second', 1]]);
    expect(pool.statsOf(second)?.gpu).to.equal(1);
    const third = place('third');
    expect(third.gpu).to.not.equal(first.gpu);
    expect(pool.statsOf(third).gpu, 'the number of the GPU that is gone').to.equal(0);
  });

  it('refuses unknown types, policies and slices, and names the accepted ones', () => {
    expect(() => vgpuType('vgpu-3g')).to.throw(RangeError, /accepted: vgpu-512m, vgpu-1g/);
    const gpu = new PhysicalGpu();
    expect(() => gpu.schedule({ policy: 'fair' as Policy, sliceUs: 100 })).to.throw(/accepted: best-effort/);
    for (const sliceUs of [49, 100_001, 0.5, Number.NaN])
      expect(() => gpu.schedule({ policy: 'equal-share', sliceUs })).to.throw(/accepted: 50 to 100000/);
  });

  it('counts a wait in the first bucket whose upper end is not below it', () => {
    for (const us of [0, 0.5, 1, 3, 17.5, 999, 12_345, 2 ** 23]) {
      const bucket = waitBucket(us * 1000);
      expect(bucketUs(bucket), `${us}`).to.be.within(Math.floor(us), us * 1.1);
    }
    expect(waitBucket(1e15)).to.equal(WAIT_BUCKETS - 1);
  });

  it("computes Jain's index", () => {
    expect(jainIndex([3, 3, 3])).to.equal(1);
    expect(jainIndex([1, 0, 0, 0])).to.equal(0.25);
    expect(jainIndex([0, 0])).to.equal(1);
  });
});
