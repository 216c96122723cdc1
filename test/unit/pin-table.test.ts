/**
 * The pin table at its limits, and unmaps of whole leaf tables.
 */
import { getHeapStatistics } from 'node:v8';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as mem from '#mem';
import {
  type Hpa,
  type Iova,
  PAGE_1G,
  PAGE_2M,
  PAGE_SIZE,
  PERM_READ,
  PERM_RW,
} from '../../src/memory/address.ts';
import {
  HIGH_IOVA_LIMIT,
  HIGH_SPAN,
  MAX_NODES,
  MAX_READERS,
  PIN_LIMIT,
  PIN_ONE,
  PIN_VALID,
  pinWord,
  TABLE_IOVA_LIMIT,
  WORD_GENERATION,
  WORD_ROOT,
} from '../../src/pin-table/layout.ts';
import { PinTableFullError } from '../../src/pin-table/node-pool.ts';
import {
  framePerm,
  framePfn,
  PIN_UNMAPPED,
  PinTableError,
  PinTableReader,
} from '../../src/pin-table/reader.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { HPA_LIMIT, PinTableRig } from '../fixtures/pin-table-rig.ts';
import { findEntry } from '../support/find-entry.ts';

describe('unmap of whole leaf tables', () => {
  const HPA = (2 ** 40 + PAGE_SIZE) as Hpa;
  const SIZE = 3 * PAGE_2M;

  it('counts the pins at the links, keeps pinned frames, and completes after the last unpin', async () => {
    const { writer, reader } = new PinTableRig(8);
    // One page before three whole tables, and one after them.
    const iova = PAGE_2M - PAGE_SIZE;
    writer.map(iova as Iova, HPA, SIZE + 2 * PAGE_SIZE, PERM_RW);
    const pinned = [iova, PAGE_2M, PAGE_2M + 511 * PAGE_SIZE, 3 * PAGE_2M + 5 * PAGE_SIZE, 4 * PAGE_2M];
    for (const page of pinned) expect(reader.pin(page, PERM_RW)).to.be.greaterThan(0);
    expect(reader.pin(PAGE_2M, PERM_RW)).to.be.greaterThan(0);
    const [at, size] = [iova as Iova, SIZE + 2 * PAGE_SIZE];
    expect(writer.invalidate(at, size)).to.equal(6);
    for (const page of [...pinned, 2 * PAGE_2M]) expect(reader.pin(page, PERM_READ)).to.equal(PIN_UNMAPPED);
    expect(writer.pins(at, size)).to.equal(6);
    for (const [i, page] of [...pinned, PAGE_2M].entries()) {
      const waiting = writer.waitPins(at, size, 5000);
      expect(waiting, 'a pin to wait for').to.be.instanceOf(Promise);
      expect(framePfn(reader.lookup(page))).to.equal((HPA + page - iova) / PAGE_SIZE);
      expect(reader.unpin(page)).to.equal(true);
      expect(writer.pins(at, size)).to.equal(5 - i);
    }
    expect(writer.waitPins(at, size, 0)).to.equal(undefined);
    writer.clear(at, size);
    writer.bump();
    writer.reclaim();
    expect(writer.nodesInUse).to.equal(0);
  });

  it('clears a removed table before its node is used again', () => {
    const system = new PinTableRig(2);
    system.writer.map(0 as Iova, HPA, PAGE_2M, PERM_RW);
    system.unmap(0, PAGE_2M);
    system.writer.map((PAGE_2M + PAGE_SIZE) as Iova, HPA, 2 * PAGE_SIZE, PERM_READ);
    for (let page = 0; page < 512; page++) {
      const leaf = system.lookup(PAGE_2M + page * PAGE_SIZE);
      expect(framePerm(leaf)).to.equal(page === 1 || page === 2 ? PERM_READ : 0);
      expect(system.reader.unpin(PAGE_2M + page * PAGE_SIZE)).to.equal(page === 1 || page === 2);
      if (page === 1 || page === 2) system.reader.pin(PAGE_2M + page * PAGE_SIZE, PERM_READ);
    }
  });

  it('removes pins by force in whole and partial tables, and updates the links', () => {
    const { writer, reader } = new PinTableRig(8);
    writer.map(0 as Iova, HPA, PAGE_2M / 2, PERM_RW);
    writer.map((PAGE_2M / 2) as Iova, HPA, PAGE_2M / 2 + PAGE_2M, PERM_RW);
    for (const page of [0, PAGE_SIZE, PAGE_2M - PAGE_SIZE, PAGE_2M, 2 * PAGE_2M - PAGE_SIZE])
      reader.pin(page, PERM_RW);
    expect(writer.forceUnpin(0 as Iova, PAGE_2M / 2)).to.equal(2);
    expect(writer.pins(0 as Iova, PAGE_2M), 'at the link').to.equal(1);
    expect(writer.forceUnpin((PAGE_2M / 2) as Iova, PAGE_2M / 2 + PAGE_2M)).to.equal(3);
    expect(writer.pins(0 as Iova, 2 * PAGE_2M)).to.equal(0);
  });

  it('accepts PIN_LIMIT pins in one leaf table, and refuses one more', () => {
    const { writer, reader } = new PinTableRig(2);
    writer.map(0 as Iova, HPA, 2 * PAGE_SIZE, PERM_RW);
    const words = mem.wordsOf(writer.sab);
    const link = pinWord(mem.rd(words, WORD_ROOT, 'walk.root'));
    mem.st(words, link, (PIN_LIMIT - 1) * PIN_ONE + PIN_VALID, 'table.init');
    expect(reader.pin(0, PERM_READ)).to.equal(2 ** 28 + 1);
    expect(reader.pin(PAGE_SIZE, PERM_READ)).to.equal(PIN_UNMAPPED);
    expect(writer.pins(PAGE_SIZE as Iova, PAGE_SIZE)).to.equal(0);
    expect(reader.unpin(0)).to.equal(true);
    expect(reader.pin(PAGE_SIZE, PERM_READ)).to.equal(2 ** 28 + 2);
  });
});

describe('pin table limits', () => {
  it('maps the last page of a 57-bit IOVA space through one more node, and nothing beyond it', () => {
    const system = new PinTableRig(3, 57);
    const last = HIGH_IOVA_LIMIT - PAGE_SIZE;
    system.writer.map(last as Iova, (2 ** 40) as Hpa, PAGE_SIZE, PERM_RW);
    expect(system.writer.nodesInUse).to.equal(3);
    expect(framePfn(system.lookup(last))).to.equal(2 ** 28);
    expect(system.reader.pin(last, PERM_RW)).to.equal(2 ** 28);
    expect(system.reader.unpin(last)).to.equal(true);
    expect(system.lookup(last - HIGH_SPAN)).to.equal(0);
    expect(system.lookup(HIGH_IOVA_LIMIT)).to.equal(0);
    expect(() => system.writer.map(HIGH_IOVA_LIMIT as Iova, 0 as Hpa, PAGE_SIZE, PERM_RW)).to.throw(
      PinTableError,
      '57 bits',
    );
    system.unmap(last, PAGE_SIZE);
    expect(system.writer.nodesInUse).to.equal(0);
  });

  it(`has at most ${MAX_NODES} nodes`, () => {
    expect(new PinTableWriter(MAX_NODES).nodes).to.equal(MAX_NODES);
    for (const nodes of [MAX_NODES + 1, -1, 1.5, Number.NaN])
      expect(() => new PinTableWriter(nodes)).to.throw(PinTableError, `accepted: 0 to ${MAX_NODES}`);
  });

  it('does not count as memory in use before it is touched', () => {
    const before = getHeapStatistics().external_memory;
    const { handle, nodes } = new PinTableWriter(MAX_NODES);
    expect(handle.sab.byteLength).to.be.above(nodes * 4096);
    expect(getHeapStatistics().external_memory - before).to.be.below(2 ** 24);
  });

  it('holds as many pages as a container, each 1 GiB from the next, and frees their nodes', () => {
    const pages = 65_535;
    const { writer, reader } = new PinTableRig(2 * pages);
    const at = (i: number) => (i * PAGE_1G) as Iova;
    for (let i = 0; i < pages; i++) writer.map(at(i), (2 ** 40 + i * PAGE_SIZE) as Hpa, PAGE_SIZE, PERM_RW);
    expect(writer.nodesInUse).to.equal(2 * pages);
    reader.enter();
    for (const i of [0, 1023, 1024, pages - 1]) expect(framePfn(reader.lookup(at(i)))).to.equal(2 ** 28 + i);
    reader.exit();
    for (let i = 0; i < pages; i++) {
      writer.invalidate(at(i), PAGE_SIZE);
      writer.clear(at(i), PAGE_SIZE);
    }
    writer.reclaim();
    expect(writer.nodesInUse).to.equal(0);
  });

  const KiB4 = (iova: number) => [iova as Iova, (2 ** 40) as Hpa, PAGE_SIZE, PERM_RW] as const;

  it('maps one page with two nodes, and refuses the next region until the first is unmapped', () => {
    const { writer, ...rest } = new PinTableRig(2);
    const system = Object.assign(Object.create(PinTableRig.prototype) as PinTableRig, { writer, ...rest });
    writer.map(...KiB4(0));
    expect(writer.nodesInUse).to.equal(2);
    writer.map(...KiB4(PAGE_SIZE));
    expect(() => writer.map(...KiB4(PAGE_2M))).to.throw(PinTableFullError, 'all 2 nodes');
    system.unmap(0, 2 * PAGE_SIZE);
    writer.map(...KiB4(PAGE_2M));
    expect(writer.nodesInUse).to.equal(2);
  });

  it('maps and unmaps many times its capacity', () => {
    const system = new PinTableRig(4);
    for (let round = 0; round < 2000; round++) {
      const iova = (round % 1000) * 3 * PAGE_1G + (round % 7) * PAGE_SIZE;
      system.writer.map(...KiB4(iova));
      expect(framePfn(system.lookup(iova))).to.equal(2 ** 28);
      system.unmap(iova, PAGE_SIZE);
    }
    expect(system.writer.nodesInUse).to.equal(0);
  });

  it('does not reuse a retired node before its readers have drained', () => {
    const system = new PinTableRig(2);
    system.writer.map(...KiB4(0));
    system.reader.enter();
    system.writer.invalidate(0 as Iova, PAGE_SIZE);
    system.writer.clear(0 as Iova, PAGE_SIZE);
    system.writer.bump();
    expect(system.writer.waitDrained(0)).to.be.instanceOf(Promise);
    expect(() => system.writer.map(...KiB4(PAGE_1G))).to.throw(PinTableFullError);
    system.reader.exit();
    expect(system.writer.waitDrained(0)).to.equal(undefined);
    system.writer.reclaim();
    system.writer.map(...KiB4(PAGE_1G));
  });

  it('does not reuse a leaf table that is removed whole before its readers have drained', () => {
    const system = new PinTableRig(3);
    const { writer, reader } = system;
    writer.map(0 as Iova, (2 ** 40 + PAGE_SIZE) as Hpa, PAGE_2M, PERM_RW);
    writer.map(...KiB4(PAGE_2M));
    expect(writer.nodesInUse, 'two leaf tables and the node above').to.equal(3);
    reader.enter();
    writer.invalidate(0 as Iova, PAGE_2M);
    writer.clear(0 as Iova, PAGE_2M);
    writer.bump();
    expect(() => writer.map(...KiB4(2 * PAGE_2M))).to.throw(PinTableFullError);
    reader.exit();
    writer.reclaim();
    writer.map(...KiB4(2 * PAGE_2M));
    expect(framePfn(system.lookup(2 * PAGE_2M + PAGE_SIZE)), 'no page of the old table').to.equal(0);
  });

  it('counts the node above 48 bits before it maps', () => {
    const writer = new PinTableWriter(2, { iovaBits: 57 });
    expect(() => writer.map(...KiB4(TABLE_IOVA_LIMIT))).to.throw(PinTableFullError);
    expect(writer.nodesInUse).to.equal(0);
  });

  it('keeps a page that is mapped when a batch covers it', () => {
    const system = new PinTableRig(8);
    system.writer.map(...KiB4(PAGE_SIZE));
    const frames = Int32Array.of(7, 8, 9);
    expect(system.writer.mapPages(0 as Iova, frames, 3, PERM_RW)).to.equal(false);
    expect([0, 1, 2].map((page) => framePfn(system.lookup(page * PAGE_SIZE)))).to.deep.equal([0, 2 ** 28, 0]);
  });

  it('leaves no link valid for pins when its last page is unmapped', () => {
    const system = new PinTableRig(4);
    system.writer.map(...KiB4(0));
    const words = mem.wordsOf(system.writer.sab);
    const link = mem.rd(words, WORD_ROOT, 'walk.root');
    expect(mem.ld(words, pinWord(link), 'unmap.pincount')).to.equal(PIN_VALID);
    system.unmap(0, PAGE_SIZE);
    expect(mem.ld(words, pinWord(link), 'unmap.pincount')).to.equal(0);
  });

  it('is in a switch from its first mark to the mark of its end', () => {
    const { writer, reader } = new PinTableRig(2);
    const marks = [true, true, false, false].map((on) => {
      writer.setSwitching(on);
      return reader.switchSequence;
    });
    expect(marks).to.deep.equal([1, 1, 2, 2]);
  });

  it('maps the last page of a 48-bit IOVA space and nothing beyond it', () => {
    const system = new PinTableRig(4);
    system.writer.map(...KiB4(TABLE_IOVA_LIMIT - PAGE_SIZE));
    expect(framePfn(system.lookup(TABLE_IOVA_LIMIT - 1))).to.equal(2 ** 28);
    expect(() => system.writer.map(...KiB4(TABLE_IOVA_LIMIT))).to.throw(PinTableError, '48 bits');
    expect(system.lookup(TABLE_IOVA_LIMIT)).to.equal(0);
    expect(system.lookup(-PAGE_SIZE)).to.equal(0);
    expect(system.reader.pin(TABLE_IOVA_LIMIT, PERM_READ)).to.equal(PIN_UNMAPPED);
    expect(system.reader.unpin(TABLE_IOVA_LIMIT)).to.equal(false);
  });

  it('maps the last host page below 2^42 and nothing beyond it', () => {
    const system = new PinTableRig(4);
    system.writer.map(0 as Iova, (HPA_LIMIT - PAGE_SIZE) as Hpa, PAGE_SIZE, PERM_RW);
    expect(framePfn(system.lookup(0))).to.equal(2 ** 30 - 1);
    expect(system.reader.pin(0, PERM_RW)).to.equal(2 ** 30 - 1);
    expect(() => system.writer.map(PAGE_SIZE as Iova, HPA_LIMIT as Hpa, PAGE_SIZE, PERM_RW)).to.throw(
      PinTableError,
      '42 bits',
    );
  });

  it('maps nothing when the last of several extents is out of range', () => {
    const system = new PinTableRig(8);
    const extents = [2 ** 40, HPA_LIMIT].map((hpa) => ({ hpa: hpa as Hpa, size: PAGE_SIZE }));
    expect(() => system.writer.mapExtents(0 as Iova, extents, PERM_RW)).to.throw(PinTableError);
    expect(system.lookup(0)).to.equal(0);
    expect(system.writer.nodesInUse).to.equal(0);
  });

  it(`has ${MAX_READERS} reader slots`, () => {
    const writer = new PinTableWriter(1);
    const slots = Array.from({ length: MAX_READERS }, () => writer.addReader());
    expect(new Set(slots).size).to.equal(MAX_READERS);
    for (const slot of slots) new PinTableReader(writer.sab, slot);
    expect(() => writer.addReader()).to.throw(PinTableError);
    expect(() => new PinTableReader(writer.sab, MAX_READERS)).to.throw(PinTableError, `${MAX_READERS}`);
    expect(() => new PinTableReader(writer.sab, -1)).to.throw(PinTableError);
    expect(() => new PinTableReader(new SharedArrayBuffer(8192), 0)).to.throw(
      PinTableError,
      'not a pin table',
    );
  });

  it('accepts PIN_LIMIT pins on one leaf, refuses one more, and loses none', () => {
    const system = new PinTableRig(2);
    system.writer.map(...KiB4(0));
    const words = mem.wordsOf(system.writer.sab);
    mem.st(words, pinWord(findEntry(words, 0)), (PIN_LIMIT - 1) * PIN_ONE + PIN_VALID, 'table.init');
    expect(system.reader.pin(0, PERM_READ)).to.equal(2 ** 28);
    expect(system.reader.pin(0, PERM_READ)).to.equal(PIN_UNMAPPED);
    expect(system.writer.pins(0 as Iova, PAGE_SIZE)).to.equal(PIN_LIMIT);
    expect(system.reader.unpin(0)).to.equal(true);
    expect(system.reader.pin(0, PERM_READ)).to.equal(2 ** 28);
  });

  it('never uses the generation that means outside, even when the counter wraps', () => {
    const system = new PinTableRig(2);
    const words = mem.wordsOf(system.writer.sab);
    for (const start of [1, 2 ** 31 - 1, -3, -1]) {
      mem.st(words, WORD_GENERATION, start, 'table.init');
      for (let bump = 0; bump < 4; bump++) {
        // The generation is odd before and after an addition of 2, so it is never 0.
        expect(system.writer.bump() & 1, `after ${start}`).to.equal(1);
        system.reader.enter();
        expect(system.writer.waitDrained(0), 'a reader in the newest generation').to.equal(undefined);
        system.writer.bump();
        expect(system.writer.waitDrained(0), 'a reader in an older generation').to.be.instanceOf(Promise);
        system.reader.exit();
        expect(system.writer.waitDrained(0)).to.equal(undefined);
      }
    }
  });
});
