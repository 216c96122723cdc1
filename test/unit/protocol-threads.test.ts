import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import { Prng, yieldTurn } from '#host';
import * as mem from '#mem';
import { type Hpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { HostMemory, HPA_BASE } from '../../src/memory/host-memory.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { Container } from '../../src/vfio/container.ts';
import { FakeUser } from '../fixtures/container-fakes.ts';
import {
  type AccessKind,
  CONTROL_BYTES,
  Control,
  type DmaWorkerTask,
  tagOf,
} from '../fixtures/dma-worker.ts';

const READERS = 2;
const WAIT_MS = 10_000;
/** The content of a page that is not mapped; it is no tag. */
const POISON = 0x0bad_0bad;

/** A container over real shared memory, and its reader threads. */
class Rig {
  readonly memory = HostMemory.allocate(HPA_BASE as Hpa, PAGE_2M);
  readonly table = new PinTableWriter(16);
  readonly container = new Container(this.table, {
    extents: (vaddr, size) => [{ hpa: (HPA_BASE + vaddr) as Hpa, size }],
  });
  readonly users = Array.from({ length: READERS }, () => new FakeUser(this.table));
  readonly control = new SharedArrayBuffer(CONTROL_BYTES);
  readonly words = mem.wordsOf(this.control);
  readonly workers: Worker[] = [];
  failure: Error | undefined;

  constructor() {
    for (const user of this.users) this.container.addUser(user);
    this.memory.fill32(HPA_BASE as Hpa, PAGE_2M, POISON);
  }

  start(task: Pick<DmaWorkerTask, 'pages' | 'style' | 'kinds' | 'count'>): void {
    for (const { slot } of this.users) {
      const workerData: DmaWorkerTask = {
        ...task,
        slot,
        table: this.table.sab,
        memory: this.memory.handle,
        control: this.control,
      };
      const worker = new Worker(new URL('../fixtures/dma-worker.ts', import.meta.url), { workerData });
      worker.on('error', (error: Error) => {
        this.failure ??= error;
      });
      this.workers.push(worker);
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.terminate()));
  }

  word(index: number): number {
    return mem.ld(this.words, index, 'link.word');
  }

  say(index: number, value: number): void {
    mem.st(this.words, index, value, 'link.word');
    mem.wake(this.words, index, 'link.wait');
  }

  /** Waits until each reader's word reaches `value`. */
  async readers(first: number, value: number): Promise<void> {
    for (const { slot } of this.users)
      for (let now = this.word(first + slot); now < value; now = this.word(first + slot)) {
        if (this.failure) throw this.failure;
        const waiting = mem.waitEqAsync(this.words, first + slot, now, WAIT_MS, 'link.wait');
        if (waiting && !(await waiting)) throw this.failure ?? new Error('a reader does not answer');
      }
  }

  /** Fills host page `frame` with the tag, then maps IOVA page `page` to it. */
  map(page: number, frame: number): void {
    this.memory.fill32((HPA_BASE + frame * PAGE_SIZE) as Hpa, PAGE_SIZE, tagOf(page));
    this.container.map((page * PAGE_SIZE) as Iova, frame * PAGE_SIZE, PAGE_SIZE, PERM_RW);
  }

  /** Poisons a page after its unmap has completed. No reader may use the page from then on. */
  poison(frame: number): void {
    this.memory.fill32((HPA_BASE + frame * PAGE_SIZE) as Hpa, PAGE_SIZE, POISON);
  }
}

/** Unmaps between each reader's lookup and its use. Counts uses, and uses after the unmap has completed. */
async function handshake(rig: Rig, kind: AccessKind, rounds: number) {
  rig.start({ pages: [5], style: 'handshake', kinds: [kind], count: rounds });
  let waited = 0;
  for (let round = 1; round <= rounds; round++) {
    const frame = round % 64;
    rig.map(5, frame);
    rig.say(Control.round, round);
    await rig.readers(Control.looked, round);
    const unmap = rig.container.unmapAll();
    if (unmap === undefined) rig.poison(frame);
    rig.say(Control.requested, round);
    if (unmap !== undefined) {
      waited++;
      await unmap;
      rig.poison(frame);
    }
    await rig.readers(Control.done, round);
  }
  return { uses: rig.word(Control.uses), bad: rig.word(Control.bad), waited };
}

describe('pin table protocol on real threads', () => {
  const rigs: Rig[] = [];
  const rig = () => {
    const made = new Rig();
    rigs.push(made);
    return made;
  };
  afterEach(async () => {
    for (const made of rigs.splice(0)) await made.stop();
  });

  const ROUNDS = 40;

  for (const kind of ['section', 'pin'] as const)
    it(`makes an unmap between lookup and use wait for the use (${kind})`, async () => {
      const made = rig();
      const { uses, bad, waited } = await handshake(made, kind, ROUNDS);
      expect(uses).to.equal(READERS * ROUNDS);
      expect(waited, 'every unmap met both readers').to.equal(ROUNDS);
      expect(bad, 'uses after unmap').to.equal(0);
      for (const user of made.users) expect(user.quarantines).to.deep.equal([]);
      expect(made.table.nodesInUse).to.equal(0);
    });

  for (const [kind, missing] of [
    ['bare', 'a lookup outside any section'],
    ['stale', 'a frame used after its unpin'],
  ] as const)
    it(`closes a race that the control has: ${missing}`, async () => {
      const { uses, bad, waited } = await handshake(rig(), kind, ROUNDS);
      expect(uses).to.equal(READERS * ROUNDS);
      expect(waited, 'unmaps that waited').to.equal(0);
      expect(bad, 'uses after unmap').to.equal(READERS * ROUNDS);
    });

  it('prevents uses after an unmap or of a wrong page in free-running threads', async () => {
    const made = rig();
    const PAGES = 12;
    const COUNT = 150_000;
    const FRAMES = 64;
    const pages = Array.from({ length: PAGES }, (_, i) => i * 300);
    const frameOf = new Map<number, number>();
    const free = Array.from({ length: FRAMES }, (_, i) => i);
    const prng = new Prng(42);
    made.start({ pages, style: 'free', kinds: ['section', 'pin'], count: COUNT });
    const running = () => made.users.some(({ slot }) => made.word(Control.done + slot) < COUNT);
    let unmaps = 0;
    while (running()) {
      if (made.failure) throw made.failure;
      const page = pages[prng.below(PAGES)] as number;
      const frame = frameOf.get(page);
      if (frame === undefined) {
        const [taken] = free.splice(prng.below(free.length), 1) as [number];
        frameOf.set(page, taken);
        made.map(page, taken);
      } else {
        await made.container.unmapRange((page * PAGE_SIZE) as Iova, PAGE_SIZE);
        made.poison(frame);
        frameOf.delete(page);
        free.push(frame);
        unmaps++;
      }
      if (unmaps % 16 === 0) await yieldTurn();
    }
    expect(made.word(Control.bad), 'uses after unmap, or of a wrong page').to.equal(0);
    expect(made.word(Control.uses)).to.be.greaterThan(1000);
    expect(unmaps).to.be.greaterThan(100);
    expect(made.container.pins()).to.equal(0);
    for (const user of made.users) expect(user.quarantines).to.deep.equal([]);
    await made.container.unmapAll();
    expect(made.table.nodesInUse).to.equal(0);
  });
});
