/**
 * Ends of unmaps and of switches: when nodes are free again, and what a device may still do until then.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import { type Iova, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { containerRig } from '../fixtures/container-fakes.ts';

describe('an unmap that waits for a section', () => {
  it('keeps the nodes of the range until the section has ended, and frees them then', async () => {
    const { container, table, user } = containerRig();
    container.map(0 as Iova, 0, PAGE_SIZE, PERM_RW);
    const used = table.nodesInUse;
    user.reader.enter();
    const work = container.unmapAll();
    await yieldTurn();
    expect(table.nodesInUse, 'a reader may still walk through them').to.equal(used);
    user.reader.exit();
    await work;
    expect([used > 0, table.nodesInUse]).to.deep.equal([true, 0]);
  });
});

describe('an unmap of several pinned mappings', () => {
  it('waits for the pins of each', async () => {
    const { container, user } = containerRig();
    const pages = [0, 1, 2, 3].map((page) => (page * PAGE_SIZE) as Iova);
    for (const page of pages) {
      container.map(page, page, PAGE_SIZE, PERM_RW);
      user.reader.pin(page, PERM_READ);
    }
    const work = container.unmapAll();
    let done = false;
    void work?.then(() => {
      done = true;
    });
    for (const page of pages) {
      for (let turn = 0; turn < 5; turn++) await yieldTurn();
      expect([done, container.liveMappings, user.lookup(page) !== 0]).to.deep.equal([false, 4, true]);
      user.reader.unpin(page);
    }
    await work;
    expect([container.liveMappings, user.quarantines]).to.deep.equal([0, []]);
  });
});

describe('the start of dirty tracking', () => {
  it('is complete when the sections that do not log have ended', async () => {
    const { container, user } = containerRig({ log: true });
    container.map(0 as Iova, 0, PAGE_SIZE, PERM_RW);
    user.reader.enter();
    expect(user.reader.logsWrites).to.equal(false);
    const work = container.dirty.start();
    let done = false;
    void work?.then(() => {
      done = true;
    });
    await yieldTurn();
    expect([work !== undefined, done]).to.deep.equal([true, false]);
    user.reader.exit();
    await work;
    user.reader.enter();
    expect(user.reader.logsWrites).to.equal(true);
    user.reader.exit();
  });
});
