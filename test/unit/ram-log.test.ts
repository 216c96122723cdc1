/**
 * The log of pages that a VM's threads write, and the copy of RAM that depends on it.
 */
import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { nowUs, Prng, yieldTurn } from '#host';
import * as mem from '#mem';
import { FOUR_GIB, type Gpa, type Hpa, PAGE_SIZE } from '../../src/memory/address.ts';
import { GuestAddressError, GuestRam } from '../../src/memory/guest-ram.ts';
import { FRAME_SIZE, HPA_BASE } from '../../src/memory/host-memory.ts';
import { RamLog } from '../../src/memory/ram-log.ts';
import type { RamLogWorkerTask } from '../fixtures/ram-log-worker.ts';

const MIB = 2 ** 20;
const BELOW = 4 * MIB;
const ABOVE = 6 * MIB;
const PAGES_BELOW = BELOW / PAGE_SIZE;
const makeRam = (seed = 1) => GuestRam.allocate(HPA_BASE as Hpa, BELOW, ABOVE, new Prng(seed));

function harvested(log: RamLog): number[] {
  const pages: number[] = [];
  log.harvest((page) => pages.push(page));
  return pages;
}

describe('RamLog', () => {
  it('returns exactly the marked pages once, in ascending order', () => {
    const pages = 1000;
    const runs = fc.array(fc.tuple(fc.nat(pages - 1), fc.integer({ min: 1, max: 130 })), { maxLength: 12 });
    fc.assert(
      fc.property(runs, (marked) => {
        const log = RamLog.allocate(pages * PAGE_SIZE);
        const expected = new Set<number>();
        for (const [page, wanted] of marked) {
          const count = Math.min(wanted, pages - page);
          log.mark(page, count);
          for (let i = 0; i < count; i++) expected.add(page + i);
        }
        expect(log.count()).to.equal(expected.size);
        expect(harvested(new RamLog(log.handle))).to.deep.equal([...expected].sort((a, b) => a - b));
        expect(harvested(log)).to.deep.equal([]);
      }),
    );
  });

  it('removes one mark and keeps its neighbours, or clears all marks', () => {
    const log = RamLog.allocate(64 * PAGE_SIZE);
    log.mark(30, 4);
    expect([log.take(31), log.take(31), log.take(34)]).to.deep.equal([true, false, false]);
    expect(harvested(log)).to.deep.equal([30, 32, 33]);
    log.mark(0, 64);
    log.clear();
    expect(log.count()).to.equal(0);
  });

  it('refuses RAM that is not a multiple of pages', () => {
    for (const bytes of [0, -PAGE_SIZE, PAGE_SIZE + 1, Number.NaN])
      expect(() => RamLog.allocate(bytes)).to.throw(RangeError, 'positive multiples of 4096');
  });
});

describe('GuestRam with a log', () => {
  it('numbers its pages in RAM order, and finds them by GPA and by HPA', () => {
    for (let seed = 0; seed < 8; seed++) {
      const shuffled = makeRam(seed);
      for (let page = 0; page < shuffled.pages; page += 64)
        expect(shuffled.pageOf(shuffled.hpaOf(shuffled.gpaOfPage(page)) as Hpa)).to.equal(
          shuffled.gpaOfPage(page),
        );
    }
    const ram = makeRam(5);
    expect(ram.pages).to.equal((BELOW + ABOVE) / PAGE_SIZE);
    for (const [gpa, page] of [
      [0, 0],
      [BELOW - 1, PAGES_BELOW - 1],
      [FOUR_GIB, PAGES_BELOW],
      [FOUR_GIB + ABOVE - PAGE_SIZE, ram.pages - 1],
    ] as const) {
      expect(ram.pageIndex(gpa)).to.equal(page);
      expect(ram.gpaOfPage(page)).to.equal(gpa - (gpa % PAGE_SIZE));
    }
    for (let page = 0; page < ram.pages; page += 37) {
      const gpa = ram.gpaOfPage(page);
      const hpa = ram.hpaOf(gpa) as Hpa;
      expect([ram.pageOf(hpa), ram.pageOf(hpa + PAGE_SIZE - 1)]).to.deep.equal([gpa, gpa]);
    }
    expect([ram.pageOf(HPA_BASE - 1), ram.pageOf(HPA_BASE + ram.size)]).to.deep.equal([undefined, undefined]);
    expect(() => ram.gpaOfPage(ram.pages)).to.throw(RangeError, `0 to ${ram.pages - 1}`);
    expect(() => ram.pageIndex(BELOW)).to.throw(GuestAddressError);
  });

  it('marks the pages of every kind of write, and none for reads', () => {
    const ram = makeRam();
    ram.startLog();
    const log = ram.log as RamLog;
    const marksOf = (work: () => void) => {
      work();
      return harvested(log);
    };
    const high = FOUR_GIB + 5 * PAGE_SIZE;
    expect(marksOf(() => ram.write32(8, 1))).to.deep.equal([0]);
    expect(marksOf(() => ram.setBits32(high + 4, 1))).to.deep.equal([PAGES_BELOW + 5]);
    expect(marksOf(() => ram.publish32(BELOW - 4, 1))).to.deep.equal([PAGES_BELOW - 1]);
    expect(marksOf(() => ram.write(PAGE_SIZE - 1, new Uint8Array(2)))).to.deep.equal([0, 1]);
    expect(marksOf(() => ram.write(0, new Uint8Array(0)))).to.deep.equal([]);
    // Writes across host frames that are not neighbours in the slab.
    const across = marksOf(() => ram.write(FRAME_SIZE - PAGE_SIZE, new Uint8Array(2 * PAGE_SIZE)));
    expect(across).to.deep.equal([FRAME_SIZE / PAGE_SIZE - 1, FRAME_SIZE / PAGE_SIZE]);
    expect(
      marksOf(() => {
        ram.read(0, PAGE_SIZE);
        ram.load32(4);
        ram.equals(0, new Uint8Array(16));
        ram.copyPageOut(0, new Uint8Array(PAGE_SIZE));
      }),
    ).to.deep.equal([]);
    expect(() => ram.write(BELOW - 1, new Uint8Array(2))).to.throw(GuestAddressError);
    ram.stopLog();
    expect(marksOf(() => ram.write32(0, 2))).to.deep.equal([]);
  });

  it('shares one log between threads, and refuses the log of another RAM', () => {
    const ram = makeRam();
    const other = new GuestRam(ram.handle);
    other.startLog(ram.startLog());
    other.write32(PAGE_SIZE, 1);
    expect(harvested(ram.log as RamLog)).to.deep.equal([1]);
    const small = RamLog.allocate(FRAME_SIZE).handle;
    expect(() => ram.startLog(small)).to.throw(RangeError, 'for RAM of');
  });

  it('copies whole pages out, and reports empty ones', () => {
    const ram = makeRam(3);
    const gpa = (FOUR_GIB + FRAME_SIZE - PAGE_SIZE) as Gpa;
    expect(ram.isZero(0, BELOW)).to.equal(true);
    ram.write(gpa + PAGE_SIZE - 1, Uint8Array.of(7, 8));
    expect([ram.isZero(gpa, PAGE_SIZE), ram.isZero(gpa + PAGE_SIZE, PAGE_SIZE)]).to.deep.equal([
      false,
      false,
    ]);
    expect(ram.isZero(FOUR_GIB, FRAME_SIZE - PAGE_SIZE)).to.equal(true);
    expect(ram.isZero(FOUR_GIB, ABOVE)).to.equal(false);
    const target = new Uint8Array(2 * PAGE_SIZE);
    ram.copyPageOut(gpa, target, 0);
    ram.copyPageOut(gpa + PAGE_SIZE, target, PAGE_SIZE);
    expect(Buffer.from(target).equals(ram.read(gpa, 2 * PAGE_SIZE))).to.equal(true);
    for (const bad of [8, BELOW, FOUR_GIB - PAGE_SIZE])
      expect(() => ram.copyPageOut(bad, target)).to.throw(GuestAddressError);
    expect(() => ram.isZero(BELOW - PAGE_SIZE, 2 * PAGE_SIZE)).to.throw(GuestAddressError);
  });
});

/** The rounds last until the thread has written so often. */
const WRITES_LEAST = 1000;

/** Copies RAM in rounds, as a migration does, while two threads write it. Returns the count of pages that differ. */
async function copyInRounds(marks: boolean) {
  const ram = makeRam(11);
  const copy = makeRam(12);
  const log = ram.startLog();
  const control = new SharedArrayBuffer(8);
  const words = mem.wordsOf(control);
  const task: RamLogWorkerTask = { ram: ram.handle, log, control, marks };
  const worker = new Worker(new URL('../fixtures/ram-log-worker.ts', import.meta.url), { workerData: task });
  const ended = new Promise<number>((resolve, reject) => worker.once('exit', resolve).once('error', reject));
  const writes = () => mem.ld(words, 1, 'link.word');
  while (writes() === 0) await yieldTurn();

  const page = new Uint8Array(PAGE_SIZE);
  const prng = new Prng(4);
  let copied = 0;
  const copyPage = (index: number) => {
    const gpa = ram.gpaOfPage(index);
    ram.copyPageOut(gpa, page);
    copy.write(gpa, page);
    copied++;
    // The coordinator also writes during the copy, for example a status word or a used ring.
    if (copied % 64 === 0) ram.publish32(4 * prng.below(BELOW / 4), copied);
  };
  for (let index = 0; index < ram.pages; index++) copyPage(index);
  const until = nowUs() + 400_000;
  let rounds = 0;
  while (nowUs() < until || rounds < 3 || writes() <= WRITES_LEAST) {
    ram.log?.harvest(copyPage);
    rounds++;
    await yieldTurn();
  }
  mem.st(words, 0, 1, 'link.word');
  expect(await ended).to.equal(0);
  while (ram.log?.count()) ram.log.harvest(copyPage);
  let different = 0;
  for (let index = 0; index < ram.pages; index++) {
    copy.copyPageOut(ram.gpaOfPage(index), page);
    if (!ram.equals(ram.gpaOfPage(index), page)) different++;
  }
  return { different, writes: writes(), rounds };
}

describe('copy of RAM in rounds', () => {
  it('has every byte of threads that mark their writes', async () => {
    const { different, writes } = await copyInRounds(true);
    expect(writes).to.be.greaterThan(WRITES_LEAST);
    expect(different).to.equal(0);
  });

  it('lacks the bytes of a thread that does not mark its writes (control)', async () => {
    expect((await copyInRounds(false)).different).to.be.greaterThan(0);
  });
});
