import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Prng } from '#host';
import * as mem from '#mem';
import { type Hpa, type Iova, PAGE_1G, PAGE_2M, PAGE_SIZE, PERM_READ } from '../../src/memory/address.ts';
import {
  LIST_PAGES,
  NODE_ENTRIES,
  NODE_WORDS,
  PIN_LIMIT,
  PIN_ONE,
  PIN_VALID,
  pinWord,
  TABLE_IOVA_LIMIT,
  WORD_NODES,
} from '../../src/pin-table/layout.ts';
import { leavesFill } from '../../src/pin-table/protocol.ts';
import { PIN_DENIED, PIN_UNMAPPED, PinTableReader } from '../../src/pin-table/reader.ts';
import { bindKernels } from '../../src/pin-table/wasm/kernels.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import type { PinCountTask } from '../fixtures/pin-worker.ts';
import { findEntry } from '../support/find-entry.ts';

/** Builds a table with leaves of all sizes and permissions, and both kinds of reader. */
function randomTable(seed: number) {
  const prng = new Prng(seed);
  const writer = new PinTableWriter(256, { iovaBits: 57 });
  const mapped: { iova: number; size: number }[] = [];
  for (let gib = 0; gib < 12; gib++) {
    const base = gib < 8 ? gib * 5 * PAGE_1G : TABLE_IOVA_LIMIT + gib * 700 * PAGE_1G;
    const size = [PAGE_SIZE, 3 * PAGE_SIZE, 512 * PAGE_SIZE, PAGE_2M, PAGE_1G][prng.below(5)] as number;
    const shift = size >= PAGE_2M ? 0 : prng.below(600) * PAGE_SIZE;
    const hpa = 2 ** 40 + gib * PAGE_1G + (size === 512 * PAGE_SIZE ? PAGE_SIZE : 0);
    writer.map((base + shift) as Iova, hpa as Hpa, size, 1 + prng.below(3));
    mapped.push({ iova: base + shift, size });
  }
  const js = new PinTableReader(writer.sab, writer.addReader());
  const wasm = new PinTableReader(writer.handle, writer.addReader());
  const address = () => {
    const { iova, size } = mapped[prng.below(mapped.length)] as { iova: number; size: number };
    return iova + (prng.below(size / PAGE_SIZE + 2) - 1) * PAGE_SIZE + prng.below(PAGE_SIZE);
  };
  return { prng, writer, js, wasm, mapped, address };
}

describe('WebAssembly pin kernels compared with JavaScript', () => {
  it('are used for a table in shared WebAssembly memory', () => {
    const { handle, sab } = new PinTableWriter(4);
    expect(handle.wasm?.memory.buffer).to.equal(sab);
    expect(sab).to.be.instanceOf(SharedArrayBuffer);
  });

  it('return the same results, and have the same effect on pin counts', () => {
    for (let seed = 1; seed <= 40; seed++) {
      const { prng, writer, js, wasm, mapped, address } = randomTable(seed);
      const held: number[] = [];
      for (let i = 0; i < 300; i++) {
        const iova = address();
        const perm = prng.below(4);
        const pfn = js.pin(iova, perm);
        expect(wasm.pin(iova, perm), `pin ${iova.toString(16)} for ${perm}`).to.equal(pfn);
        if (pfn >= 0) held.push(iova);
      }
      expect(held.length).to.be.greaterThan(20);
      const pins = () => mapped.reduce((sum, { iova, size }) => sum + writer.pins(iova as Iova, size), 0);
      expect(pins()).to.equal(2 * held.length);
      for (const iova of held) expect([js.unpin(iova), wasm.unpin(iova)]).to.deep.equal([true, true]);
      expect(pins()).to.equal(0);
      for (let i = 0; i < 50; i++) {
        const iova = address();
        const mappedHere = js.pin(iova, 0) !== PIN_UNMAPPED;
        if (mappedHere) js.unpin(iova);
        else expect([js.unpin(iova), wasm.unpin(iova)]).to.deep.equal([false, false]);
      }
      expect(pins()).to.equal(0);
    }
  });

  it('pin and unpin the same runs of pages, up to the first failure', () => {
    for (let seed = 1; seed <= 30; seed++) {
      const { prng, writer, js, wasm, mapped, address } = randomTable(seed);
      const pins = () => mapped.reduce((sum, { iova, size }) => sum + writer.pins(iova as Iova, size), 0);
      for (let i = 0; i < 60; i++) {
        const [iova, count, perm] = [address(), 1 + prng.below(700), prng.below(4)];
        const done = js.pinRun(iova, count, perm);
        expect(wasm.pinRun(iova, count, perm), `${count} from ${iova.toString(16)}`).to.equal(done);
        expect(done).to.be.at.most(count);
        expect(pins()).to.equal(2 * done);
        if (done < count) expect(js.pin(iova + done * PAGE_SIZE, perm)).to.be.below(0);
        expect([js.unpinRun(iova, done), wasm.unpinRun(iova, done)]).to.deep.equal([done, done]);
        expect(pins()).to.equal(0);
      }
    }
  });

  it('look up the pages of a list as one by one, for any length and leaf', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const { prng, writer, js, wasm, address } = randomTable(seed);
      const lengths = [0, 1, 3, 4, 5, 8, LIST_PAGES - 1, LIST_PAGES];
      for (const reader of [js, wasm])
        for (const length of lengths) {
          const pages = Array.from({ length }, () =>
            prng.below(4) === 0 ? prng.next32() : Math.floor(address() / PAGE_SIZE) % 2 ** 32,
          );
          reader.enter();
          for (const [i, page] of pages.entries()) reader.list(i, page);
          reader.lookupList(length);
          const found = pages.map((_, i) => reader.listed(i));
          expect(found, `${length} pages`).to.deep.equal(
            pages.map((page) => reader.lookup(page * PAGE_SIZE)),
          );
          reader.exit();
        }
      expect(writer.waitDrained(0)).to.equal(undefined);
    }
  });

  it('fill leaf tables as the JavaScript kernel, for any part of a table', () => {
    const prng = new Prng(7);
    for (let i = 0; i < 60; i++) {
      const { handle } = new PinTableWriter(4);
      const [filled, expected] = [mem.wordsOf(handle.sab), mem.wordsOf(new PinTableWriter(4).sab)];
      const kernels = bindKernels(handle)!;
      const first = prng.below(NODE_ENTRIES);
      const count = prng.below(NODE_ENTRIES - first + 1);
      const frame = prng.next32() | 0;
      kernels.fillLeaves((WORD_NODES + first) * 4, count, frame);
      leavesFill(expected, WORD_NODES + first, count, frame);
      for (let word = WORD_NODES; word < WORD_NODES + NODE_WORDS; word++)
        expect(mem.rd(filled, word, 'table.init'), `word ${word}`).to.equal(
          mem.rd(expected, word, 'table.init'),
        );
    }
  });

  it('continue across the end of a GiB', () => {
    const writer = new PinTableWriter(8);
    const wasm = new PinTableReader(writer.handle, writer.addReader());
    const iova = (PAGE_1G - 3 * PAGE_SIZE) as Iova;
    writer.map(iova, (2 ** 40) as Hpa, 6 * PAGE_SIZE, PERM_READ);
    expect(wasm.pinRun(iova + 8, 10, PERM_READ)).to.equal(6);
    expect(writer.pins(iova, 6 * PAGE_SIZE)).to.equal(6);
    expect(wasm.unpinRun(iova, 6)).to.equal(6);
  });

  it('refuse pages out of range, invalid, denied or at their limit, without a trace', () => {
    const writer = new PinTableWriter(4);
    const wasm = new PinTableReader(writer.handle, writer.addReader());
    writer.map(0 as Iova, (2 ** 40) as Hpa, 2 * PAGE_SIZE, PERM_READ);
    for (const iova of [-PAGE_SIZE, TABLE_IOVA_LIMIT, 2 ** 62, 2 ** 64, Number.NaN]) {
      expect(wasm.pin(iova, PERM_READ)).to.equal(PIN_UNMAPPED);
      expect(wasm.unpin(iova)).to.equal(false);
    }
    expect(wasm.pin(0, 2)).to.equal(PIN_DENIED);
    const words = mem.wordsOf(writer.sab);
    const word = pinWord(findEntry(words, 0));
    mem.st(words, word, (PIN_LIMIT - 1) * PIN_ONE + PIN_VALID, 'table.init');
    expect(wasm.pin(0, PERM_READ)).to.equal(2 ** 28);
    expect(wasm.pin(0, PERM_READ)).to.equal(PIN_UNMAPPED);
    expect(wasm.unpin(0)).to.equal(true);
    mem.st(words, word, PIN_VALID, 'table.init');
    writer.invalidate(0 as Iova, PAGE_SIZE);
    expect(wasm.pin(0, PERM_READ)).to.equal(PIN_UNMAPPED);
    expect(writer.pins(0 as Iova, PAGE_2M)).to.equal(0);
  });

  it('publish the epoch that the writer waits for', () => {
    const writer = new PinTableWriter(4);
    const wasm = new PinTableReader(writer.handle, writer.addReader());
    writer.bump();
    wasm.enter();
    expect(writer.waitDrained(0), 'in the newest generation').to.equal(undefined);
    writer.bump();
    expect(writer.waitDrained(0)).to.be.instanceOf(Promise);
    wasm.exit();
    expect(writer.waitDrained(0)).to.equal(undefined);
  });

  it('lose no pin among threads that pin the same pages, in WebAssembly and in JavaScript', async () => {
    const PAGES = 8;
    const ROUNDS = 20_000;
    const writer = new PinTableWriter(4);
    writer.map(0 as Iova, (2 ** 40) as Hpa, PAGES * PAGE_SIZE, PERM_READ);
    const tables = [writer.handle, writer.handle, writer.sab];
    await Promise.all(
      tables.map((table, i) => {
        const slot = writer.addReader();
        const workerData: PinCountTask = { table, slot, pages: PAGES, rounds: ROUNDS, kept: i + 1 };
        const worker = new Worker(new URL('../fixtures/pin-worker.ts', import.meta.url), { workerData });
        return new Promise((resolve, reject) => worker.on('exit', resolve).on('error', reject));
      }),
    );
    // Each thread has kept 1, 2 or 3 pins on each page.
    expect(writer.pins(0 as Iova, PAGE_SIZE)).to.equal(6);
    expect(writer.pins(0 as Iova, PAGES * PAGE_SIZE)).to.equal(6 * PAGES);
    expect(writer.pins(0 as Iova, PAGE_2M), 'at the link of the leaf table').to.equal(6 * PAGES);
    expect(writer.waitDrained(0)).to.equal(undefined);
  });
});
