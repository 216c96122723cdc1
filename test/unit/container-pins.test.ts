import { expect } from 'chai';
import { describe, it } from 'mocha';
import { sleep, yieldTurn } from '#host';
import * as mem from '#mem';
import { type Iova, PAGE_2M, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { OUTSIDE, readerEpoch } from '../../src/pin-table/layout.ts';
import { framePfn, PIN_UNMAPPED } from '../../src/pin-table/reader.ts';
import { DMA_UNMAP_ATTEMPTS, DMA_UNMAP_RANGES } from '../../src/vfio/container.ts';
import { containerRig, FakeUser } from '../fixtures/container-fakes.ts';

const A = 0x10000 as Iova;

/** Returns a promise and a function that tells whether it has resolved. */
function watch(work: Promise<unknown> | undefined) {
  const state = { done: work === undefined, end: Promise.resolve(work) };
  state.end = state.end.then((value) => {
    state.done = true;
    return value;
  });
  return state;
}

describe('unmap of pinned pages', () => {
  it('asks the device for the whole mapping, and completes after the last unpin', async () => {
    const { container, user } = containerRig();
    container.map(A, 0, 4 * PAGE_SIZE, PERM_RW);
    user.reader.pin(A + PAGE_SIZE, PERM_READ);
    user.reader.pin(A + PAGE_SIZE, PERM_READ);
    user.reader.pin(A + 2 * PAGE_SIZE, PERM_READ);
    const unmap = watch(container.unmapRange(A, 4 * PAGE_SIZE));
    expect(user.asked).to.deep.equal([[A, 4 * PAGE_SIZE]]);
    expect(user.reader.pin(A, PERM_READ), 'no new pins').to.equal(PIN_UNMAPPED);

    for (const pinned of [A + PAGE_SIZE, A + 2 * PAGE_SIZE, A + PAGE_SIZE]) {
      for (let turn = 0; turn < 5; turn++) await yieldTurn();
      expect(unmap.done).to.equal(false);
      expect(user.lookup(pinned), 'the frame stays while it is pinned').to.not.equal(0);
      user.reader.unpin(pinned);
    }
    expect(await unmap.end).to.equal(1);
    expect(user.lookup(A + PAGE_SIZE)).to.equal(0);
    expect(user.quarantines).to.deep.equal([]);
    expect(container.counters).to.include({ pinnedUnmaps: 1, unmaps: 1, forcedPins: 0 });
  });

  it('asks only for mappings with pins, in ascending order', async () => {
    const { container, user } = containerRig();
    for (let i = 0; i < 4; i++) container.map((A + i * PAGE_SIZE) as Iova, i * PAGE_SIZE, PAGE_SIZE, PERM_RW);
    user.onAsk = (iova) => user.reader.unpin(iova);
    user.reader.pin(A + 3 * PAGE_SIZE, PERM_READ);
    user.reader.pin(A + PAGE_SIZE, PERM_READ);
    await container.unmapAll();
    expect(user.asked).to.deep.equal([
      [A + PAGE_SIZE, PAGE_SIZE],
      [A + 3 * PAGE_SIZE, PAGE_SIZE],
    ]);
    expect(container.liveMappings).to.equal(0);
  });

  it('asks for at most DMA_UNMAP_RANGES ranges in one attempt, or for one range that spans them all', async () => {
    for (const mappings of [DMA_UNMAP_RANGES, DMA_UNMAP_RANGES + 1]) {
      const { container, user } = containerRig();
      const step = 2 * PAGE_SIZE;
      for (let i = 0; i < mappings; i++) {
        container.map((A + i * step) as Iova, 0, PAGE_SIZE, PERM_RW);
        user.reader.pin(A + i * step, PERM_READ);
      }
      user.onAsk = (iova, size) => {
        for (let at = iova; at < iova + size; at += step) user.reader.unpin(at);
      };
      await container.unmapAll();
      if (mappings <= DMA_UNMAP_RANGES) expect(user.asked).to.have.length(mappings);
      else expect(user.asked).to.deep.equal([[A, (mappings - 1) * step + PAGE_SIZE]]);
      expect(user.quarantines).to.deep.equal([]);
    }
  });

  it('asks a device that keeps its pins a bounded count of times, then quarantines it and completes', async () => {
    const { container, user } = containerRig({ unmapWaitMs: 2 });
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    user.reader.pin(A, PERM_READ);
    expect(await container.unmapRange(A, PAGE_SIZE)).to.equal(1);
    expect(user.asked).to.have.length(DMA_UNMAP_ATTEMPTS);
    expect(user.quarantines).to.deep.equal([
      ['never-unpins', 'keeps 1 pins on 0x10000 +0x1000 after 10 requests to unpin'],
    ]);
    expect(container.counters.forcedPins).to.equal(1);
    expect(container.pins()).to.equal(0);
    container.map(A, PAGE_SIZE, PAGE_SIZE, PERM_RW);
    expect(container.liveMappings).to.equal(1);
  });

  it('ends in time when wake-ups bring no progress', async () => {
    const { container, table, user } = containerRig({ unmapWaitMs: 2 });
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    user.reader.pin(A, PERM_READ);
    // A device that retries a failing pin without end wakes the writer at once, whenever the writer waits.
    table.waitPins = () => yieldTurn().then(() => true);
    expect(await container.unmapRange(A, PAGE_SIZE)).to.equal(1);
    expect(user.asked).to.have.length(DMA_UNMAP_ATTEMPTS);
    expect(user.quarantines).to.have.length(1);
  });

  it('accepts a device that unpins at the last request', async () => {
    const { container, user } = containerRig({ unmapWaitMs: 2 });
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    user.reader.pin(A, PERM_READ);
    user.onAsk = () => {
      if (user.asked.length === DMA_UNMAP_ATTEMPTS) user.reader.unpin(A);
    };
    await container.unmapAll();
    expect(user.asked).to.have.length(DMA_UNMAP_ATTEMPTS);
    expect(user.quarantines).to.deep.equal([]);
  });

  it('keeps the frames until the quarantine has ended the device', async () => {
    const { container, user, backing } = containerRig({ unmapWaitMs: 1 });
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    user.reader.pin(A, PERM_READ);
    let end = () => {};
    user.quarantine = () =>
      new Promise((resolve) => {
        end = resolve;
      });
    const unmap = watch(container.unmapAll());
    while (user.asked.length < DMA_UNMAP_ATTEMPTS) await sleep(1);
    await sleep(20);
    expect(unmap.done).to.equal(false);
    expect(framePfn(user.lookup(A)) * PAGE_SIZE).to.equal(backing.hpaOf(0));
    end();
    await unmap.end;
    expect(user.lookup(A)).to.equal(0);
  });
});

describe('unmap during DMA', () => {
  it('waits for a reader inside a section, and completes when it leaves', async () => {
    const { container, user } = containerRig();
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    user.reader.enter();
    expect(user.reader.lookup(A)).to.not.equal(0);
    const unmap = watch(container.unmapAll());
    for (let turn = 0; turn < 10; turn++) await yieldTurn();
    expect(unmap.done).to.equal(false);
    user.reader.exit();
    await unmap.end;
    expect(user.quarantines).to.deep.equal([]);
  });

  it('does not wait for a reader that entered after the unmap', async () => {
    const { container, user, table } = containerRig();
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    const other = new FakeUser(table);
    container.addUser(other);
    user.reader.enter();
    const unmap = watch(container.unmapAll());
    other.reader.enter();
    expect(other.reader.lookup(A)).to.equal(0);
    user.reader.exit();
    await unmap.end;
    other.reader.exit();
    expect(other.quarantines).to.deep.equal([]);
  });

  it('quarantines a reader that never leaves its section, and completes', async () => {
    const { container, user } = containerRig({ drainLimitMs: 5 });
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    user.reader.enter();
    await container.unmapAll();
    expect(user.quarantines).to.deep.equal([['stuck-in-dma', 'did not leave a DMA section within 5 ms']]);
    expect(container.liveMappings).to.equal(0);
  });

  it('completes at once without pins and without readers in a section', () => {
    const { container } = containerRig();
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    expect(container.unmapAll()).to.equal(undefined);
  });
});

describe('end of a switch', () => {
  it('wakes every device of the container, unlike its beginning', () => {
    const { container, user } = containerRig();
    container.setSwitching(true);
    expect(user.wakes).to.equal(0);
    expect(user.reader.switchSequence & 1).to.equal(1);
    container.setSwitching(false);
    expect(user.wakes).to.equal(1);
    expect(user.reader.switchSequence & 1).to.equal(0);
  });
});

describe('dead device of a container', () => {
  it('blocks no unmap after its release, which ends its epoch and pins', async () => {
    const { container, user, table } = containerRig();
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    container.map((A + PAGE_2M) as Iova, 0, PAGE_SIZE, PERM_RW);
    user.reader.pin(A, PERM_READ);
    user.reader.pin(A + PAGE_2M, PERM_READ);
    user.reader.enter();
    expect(container.pins()).to.equal(2);
    container.releaseUser(user);
    expect(container.pins()).to.equal(0);
    expect(container.counters.forcedPins).to.equal(2);
    expect(mem.ld(mem.wordsOf(table.sab), readerEpoch(user.slot), 'table.audit')).to.equal(OUTSIDE);
    expect(container.unmapAll()).to.equal(undefined);
    container.releaseUser(user);
    expect(container.counters.forcedPins, 'released once').to.equal(2);
  });

  it('lets an unmap complete that waits for its pins', async () => {
    const { container, user } = containerRig({ unmapWaitMs: 60_000 });
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    user.reader.pin(A, PERM_READ);
    const unmap = watch(container.unmapAll());
    await yieldTurn();
    expect(unmap.done).to.equal(false);
    container.releaseUser(user);
    await unmap.end;
    expect(user.asked).to.have.length(1);
    expect(user.quarantines).to.deep.equal([]);
  });

  it('lets an unmap complete that waits for the end of its section', async () => {
    const { container, user } = containerRig();
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    user.reader.enter();
    const unmap = watch(container.unmapAll());
    container.releaseUser(user);
    await unmap.end;
    expect(user.quarantines).to.deep.equal([]);
  });

  it('keeps the pins of another device of the same container', () => {
    const { container, user, table } = containerRig();
    const other = new FakeUser(table);
    container.addUser(other);
    container.map(A, 0, PAGE_SIZE, PERM_RW);
    other.reader.pin(A, PERM_READ);
    container.releaseUser(user);
    expect(container.pins()).to.equal(1);
  });
});
