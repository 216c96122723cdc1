/**
 * Dirty pages of devices that reach memory through the pin table.
 */
import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Prng, sleep } from '#host';
import * as mem from '#mem';
import { DeviceDma } from '../../src/device/dma.ts';
import { type Hpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_RW, PERM_WRITE } from '../../src/memory/address.ts';
import { GuestRam } from '../../src/memory/guest-ram.ts';
import { HostMemory, HPA_BASE } from '../../src/memory/host-memory.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { Container } from '../../src/vfio/container.ts';
import { containerRig, FakeUser } from '../fixtures/container-fakes.ts';
import type { DirtyWorkerTask } from '../fixtures/dirty-worker.ts';

const FRAMES = 4;
const SIZE = FRAMES * PAGE_2M;

function dirtyRig() {
  const rig = containerRig({ frames: FRAMES, log: true });
  const memory = HostMemory.allocate(HPA_BASE as Hpa, SIZE);
  const observer = { fault: () => {}, violation: (kind: string) => expect.fail(kind) };
  return { ...rig, dma: new DeviceDma(rig.user.reader, memory, observer) };
}

/** Returns the numbers of the set bits. */
const pagesOf = (bitmap: Uint8Array): number[] =>
  [...bitmap].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => byte & (1 << bit)).map((bit) => 8 * i + bit),
  );

describe('dirty pages of running devices', () => {
  it('are exactly the pages written since the last query', () => {
    const { container, dma } = dirtyRig();
    container.map(0 as Iova, 0, SIZE, PERM_RW);
    dma.write(0x9000 as Iova, new Uint8Array(8));
    container.dirty.start();
    const query = () => pagesOf(container.dirty.pages(0 as Iova, SIZE));
    expect(query()).to.deep.equal([]);
    dma.write(0x3ffc as Iova, new Uint8Array(8));
    dma.write((PAGE_2M - 4096) as Iova, new Uint8Array(4097));
    dma.read(0x5000 as Iova, new Uint8Array(8));
    expect(pagesOf(container.dirty.pages(0 as Iova, SIZE, 0x10000))).to.deep.equal([0, 31, 32]);
    expect(query(), 'taken').to.deep.equal([]);
    dma.write(0x7000 as Iova, new Uint8Array(1));
    container.dirty.start();
    expect(query(), 'restarted').to.deep.equal([]);
    container.dirty.stop();
    dma.write(0x7000 as Iova, new Uint8Array(1));
    container.dirty.start();
    expect(query()).to.deep.equal([]);
  });

  it('include a page of a 2 MiB leaf while it is pinned, and once more after its unpin', () => {
    const { container, dma } = dirtyRig();
    container.map(0 as Iova, 0, SIZE, PERM_RW);
    dma.pin(0x5000 as Iova, PERM_WRITE);
    dma.pin(0x5000 as Iova, PERM_WRITE);
    container.dirty.start();
    const query = () => pagesOf(container.dirty.pages(0 as Iova, SIZE));
    expect([query(), query()]).to.deep.equal([[5], [5]]);
    dma.pin(0x201000 as Iova, PERM_WRITE);
    dma.unpin(0x5000 as Iova);
    expect([query(), query()], 'of two pins one is left').to.deep.equal([
      [5, 513],
      [5, 513],
    ]);
    dma.unpin(0x5000 as Iova);
    expect([query(), query()]).to.deep.equal([[5, 513], [513]]);
  });

  it('are found at every address of their memory, and by memory after the unmap', async () => {
    const { container, dma } = dirtyRig();
    container.map(0 as Iova, 0x4000, 0x4000, PERM_RW);
    container.map(0x100000 as Iova, 0x4000, 0x2000, PERM_RW);
    container.dirty.start();
    dma.write(0x1000 as Iova, new Uint8Array(1));
    expect(pagesOf(container.dirty.pages(0 as Iova, 0x200000))).to.deep.equal([1, 257]);
    dma.write(0x101000 as Iova, new Uint8Array(1));
    await container.unmapAll();
    expect(pagesOf(container.dirty.pages(0 as Iova, 0x200000))).to.deep.equal([]);
    expect(pagesOf(container.dirty.memory(0, 0x10000))).to.deep.equal([5]);
  });

  it('include pages that a dead device held', () => {
    const { container, user, dma } = dirtyRig();
    container.map(0 as Iova, 0, SIZE, PERM_RW);
    container.dirty.start();
    dma.pin(0x6000 as Iova, PERM_WRITE);
    container.releaseUser(user);
    const query = () => pagesOf(container.dirty.pages(0 as Iova, SIZE));
    expect([query(), query()]).to.deep.equal([[6], []]);
  });

  it('are refused with an errno and the values', () => {
    const { container } = dirtyRig();
    container.map(0 as Iova, 0, 0x4000, PERM_RW);
    const pages = (iova: number, size: number, pageSize?: number) => () =>
      container.dirty.pages(iova as Iova, size, pageSize);
    expect(pages(0, 0x4000)).to.throw('EINVAL: dirty pages are not being tracked');
    container.dirty.start();
    expect(pages(0, 0x2000)).to.throw('EINVAL: unmap of 0x0 +0x2000');
    expect(pages(0, 0)).to.throw('EINVAL');
    expect(pages(0, 0x1800)).to.throw('EINVAL');
    expect(pages(0, 0x8000, 0x6000)).to.throw('in pages of 24576');
    expect(pages(0x4000, 0x8000, 0x8000)).to.throw('EINVAL');
    expect(() => container.dirty.memory(SIZE - 0x1000, 0x2000)).to.throw('EFAULT: no memory at');
    expect(() => containerRig().container.dirty.start()).to.throw('ENOTTY');
  });

  for (const [marks, outcome] of [
    [true, 'equal to memory that two devices write'],
    [false, 'differ when a device does not mark its writes (control)'],
  ] as const)
    it(`make a copy in rounds ${outcome}`, async () => {
      const ram = GuestRam.allocate(HPA_BASE as Hpa, SIZE, 0, new Prng(3));
      const table = new PinTableWriter(16, {
        hostPages: { first: HPA_BASE / PAGE_SIZE, count: SIZE / PAGE_SIZE },
      });
      const container = new Container(table, ram);
      const users = [new FakeUser(table), new FakeUser(table)];
      for (const user of users) container.addUser(user);
      container.map(0 as Iova, 0, SIZE, PERM_RW);
      const control = new SharedArrayBuffer(16);
      const words = mem.wordsOf(control);
      const workers = users.map(({ slot }) => {
        const workerData: DirtyWorkerTask = {
          ...{ table: table.handle, slot, memory: ram.host.handle, control, pages: SIZE / PAGE_SIZE, marks },
        };
        return new Worker(new URL('../fixtures/dirty-worker.ts', import.meta.url), { workerData });
      });
      const ended = workers.map(
        (worker) => new Promise((resolve, reject) => worker.on('exit', resolve).on('error', reject)),
      );
      for (let waited = 0; users.some(({ slot }) => mem.ld(words, 1 + slot, 'link.word') < 100); waited++) {
        if (waited > 2000) throw new Error('the devices do not write');
        await sleep(5);
      }
      const copy = Buffer.alloc(SIZE);
      await container.dirty.start();
      copy.set(ram.read(0, SIZE));
      const round = () => {
        const dirty = pagesOf(container.dirty.memory(0, SIZE));
        for (const page of dirty) copy.set(ram.read(page * PAGE_SIZE, PAGE_SIZE), page * PAGE_SIZE);
        return dirty.length;
      };
      let copied = 0;
      for (let i = 0; i < 20 || (marks && copied <= 20); i++) {
        await sleep(5);
        copied += round();
      }
      mem.st(words, 0, 1, 'link.word');
      await Promise.all(ended);
      copied += round();
      expect(copy.equals(ram.read(0, SIZE))).to.equal(marks);
      if (marks) expect(copied).to.be.greaterThan(20);
    });
});
