/**
 * Wake-ups and half-done pins of the pin table in one thread, and the ends of its page log.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as mem from '#mem';
import { type Hpa, type Iova, PAGE_SIZE, PERM_RW, PERM_WRITE } from '../../src/memory/address.ts';
import { PIN_ONE, pinWord } from '../../src/pin-table/layout.ts';
import { linkOf } from '../../src/pin-table/ranges.ts';
import { PinTableReader } from '../../src/pin-table/reader.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';

const FIRST = 0x1000;
/** Wait that ends a test whose wake-up is missing. */
const WAIT_MS = 5000;

/** A table with one page at IOVA 0, and a reader in JavaScript. */
function rig() {
  const table = new PinTableWriter(8, { hostPages: { first: FIRST, count: 40 } });
  const reader = new PinTableReader(table.sab, table.addReader());
  table.map(0 as Iova, (FIRST * PAGE_SIZE) as Hpa, PAGE_SIZE, PERM_RW);
  return { table, reader };
}

describe('a thread that waits for a reader', () => {
  it('is woken by the last unpin', async () => {
    const { table, reader } = rig();
    for (let pin = 0; pin < 2; pin++) reader.pin(0, PERM_WRITE);
    expect(table.invalidate(0 as Iova, PAGE_SIZE)).to.equal(2);
    reader.unpin(0);
    const waiting = table.waitPins(0 as Iova, PAGE_SIZE, WAIT_MS);
    reader.unpin(0);
    expect(await waiting).to.equal(true);
    expect(table.waitPins(0 as Iova, PAGE_SIZE, WAIT_MS)).to.equal(undefined);
  });

  it('is woken by the end of its section', async () => {
    const { table, reader } = rig();
    reader.enter();
    table.bump();
    const waiting = table.waitDrained(WAIT_MS);
    reader.exit();
    expect(await waiting).to.equal(true);
    expect(table.waitDrained(WAIT_MS)).to.equal(undefined);
  });
});

describe('a pin that has not undone itself yet', () => {
  it('is still counted after the next map of its page', () => {
    const { table } = rig();
    const words = mem.wordsOf(table.sab);
    const leaf = mem.rd(words, linkOf(words, 0), 'walk.mid') + 1;
    mem.add(words, pinWord(leaf), PIN_ONE, 'pin.inc');
    table.map(PAGE_SIZE as Iova, ((FIRST + 1) * PAGE_SIZE) as Hpa, PAGE_SIZE, PERM_RW);
    const pins = () => table.pins(PAGE_SIZE as Iova, PAGE_SIZE);
    expect(pins()).to.equal(1);
    mem.add(words, pinWord(leaf), -PIN_ONE, 'pin.undo');
    expect(pins()).to.equal(0);
  });
});

describe('the page log', () => {
  it('ends with its last page', () => {
    const { table, reader } = rig();
    table.log.setLogging(true);
    const dirty = () =>
      Array.from({ length: 40 }, (_, page) => page).filter((page) => table.log.take(FIRST + page));
    for (const page of [-1, 40, 63, 64, 70, 128]) {
      reader.markWritten(FIRST + page);
      reader.noteHeld(FIRST + page);
    }
    expect(dirty()).to.deep.equal([]);
    for (const page of [0, 39]) reader.markWritten(FIRST + page);
    expect([dirty(), dirty()]).to.deep.equal([[0, 39], []]);
  });

  it('keeps the pages of several readers apart', () => {
    const { table, reader } = rig();
    const second = new PinTableReader(table.sab, table.addReader());
    reader.noteHeld(FIRST + 3);
    second.noteHeld(FIRST + 3);
    second.noteHeld(FIRST + 4);
    reader.noteReleased(FIRST + 3);
    expect([3, 4, 5].map((page) => table.log.take(FIRST + page))).to.deep.equal([true, true, false]);
    second.noteReleased(FIRST + 3);
    table.log.release(1);
    expect([3, 4, 4].map((page) => table.log.take(FIRST + page))).to.deep.equal([false, true, false]);
  });
});
