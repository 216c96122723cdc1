/**
 * Harnesses of the engine of a physical GPU: vGPUs that share it, each in its own thread.
 */
import { DeviceLink } from '../../channel/device-link.ts';
import { EngineSlot } from '../../gpu/engine-slot.ts';
import { readTimeRelaxed, SLOTS_LIMIT, writeTime } from '../../gpu/layout.ts';
import { PhysicalGpu } from '../../gpu/physical-gpu.ts';
import type { Policy } from '../../gpu/policy.ts';
import { add, ensure, explore, type Harness, type SharedWords, wordsOf } from '../sdk.ts';

const SLICE_US = 50;
const PIECE_NS = 60_000;
/** Limit of a wait; the model ends none by it. */
const WAIT_MS = 1000;

interface Engine {
  readonly links: readonly DeviceLink[];
  readonly slots: readonly EngineSlot[];
  /** Count of threads at work. */
  readonly working: SharedWords;
}

/** Returns vGPUs on one GPU. Their clock stands still, so that no lease ends. */
function engine(policy: Policy, count: number): Engine {
  const gpu = new PhysicalGpu({ policy, sliceUs: SLICE_US });
  const links = Array.from({ length: count }, () => new DeviceLink());
  const type = { id: 'part', vramMiB: 1, share: 1 / SLOTS_LIMIT };
  for (const [i, link] of links.entries()) gpu.place(`gpu${i}`, type, link.sab);
  const slots = links.map((_, i) => new EngineSlot(gpu.handle(i), () => 1000));
  return { links, slots, working: wordsOf(new SharedArrayBuffer(16)) };
}

/** Works in pieces: acquires the engine, works, and is charged. */
function work({ links, slots, working }: Engine, index: number, pieces: number): void {
  const slot = slots[index] as EngineSlot;
  const { doorbell } = links[index] as DeviceLink;
  for (let left = pieces; left > 0; ) {
    const sequence = doorbell.sequence;
    if (slot.acquire() !== 'granted') {
      doorbell.wait(sequence, WAIT_MS);
      continue;
    }
    const others = add(working, 0, 1, 'work.begin');
    ensure(others === 0, 'one owner', 'two vGPUs work at once');
    add(working, 0, -1, 'work.end');
    left--;
    slot.charge(PIECE_NS, true, left > 0);
  }
}

/** Two vGPUs that take turns. */
export const engineTurns: Harness<Engine> = explore({
  name: 'engine-turns',
  setup: () => engine('equal-share', 2),
  threads: { vgpu0: (gpu) => work(gpu, 0, 2), vgpu1: (gpu) => work(gpu, 1, 2) },
});

/** Three vGPUs that keep the engine as long as they have work. */
export const engineQueue: Harness<Engine> = explore({
  name: 'engine-queue',
  setup: () => engine('best-effort', 3),
  threads: {
    vgpu0: (gpu) => work(gpu, 0, 1),
    vgpu1: (gpu) => work(gpu, 1, 1),
    vgpu2: (gpu) => work(gpu, 2, 1),
  },
});

const TIMES = [2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 3 * 2 ** 32 + 5];

/** A time of the engine that grows beyond 32 bits, read by a thread that does not own the engine. */
export const engineClock: Harness<SharedWords> = explore({
  name: 'engine-clock',
  setup: () => {
    const words = wordsOf(new SharedArrayBuffer(16));
    writeTime(words, 0, TIMES[0] as number);
    return words;
  },
  threads: {
    owner: (words) => {
      for (const time of TIMES.slice(1)) writeTime(words, 0, time);
    },
    reader: (words) => {
      const [first, second] = [readTimeRelaxed(words, 0), readTimeRelaxed(words, 0)];
      // A reader that gives up returns a time between the old one and the new one.
      const accepted = [...TIMES, 3 * 2 ** 32];
      ensure(accepted.includes(first), 'whole counter', () => `a time of ${TIMES.join(', ')} reads ${first}`);
      ensure(second >= first, 'whole counter', () => `a time reads ${first}, then ${second}`);
    },
  },
});
