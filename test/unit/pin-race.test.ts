/**
 * Races of the pin kernels, made deterministic. The writer's steps run right after one chosen step of the reader.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { type Hpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { PIN_UNMAPPED, PinTableReader } from '../../src/pin-table/reader.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';

const IOVA = 0x40_0000_1000 as Iova;
const HPA = (2 ** 40) as Hpa;

// The platform's object is reached by name, because the test replaces its function and does not use it.
const platform = Reflect.get(globalThis, 'Atomics') as unknown as Record<
  'add',
  (...args: unknown[]) => unknown
>;

/** Runs `body`, and calls `action` once, right before or right after the first atomic addition. */
function atFirstAdd<T>(when: 'before' | 'after', action: () => void, body: () => T): T {
  const original = platform.add;
  let armed = true;
  const act = (now: typeof when) => {
    if (!armed || now !== when) return;
    armed = false;
    action();
  };
  platform.add = (...args) => {
    act('before');
    const result = original.apply(platform, args);
    act('after');
    return result;
  };
  try {
    return body();
  } finally {
    platform.add = original;
  }
}

describe('pin during an unmap', () => {
  it('does not follow the link of a leaf table that is removed during the pin', () => {
    const writer = new PinTableWriter(8);
    // The bare buffer selects the JavaScript kernels, where a step can be interposed.
    const reader = new PinTableReader(writer.sab, writer.addReader());
    writer.map(IOVA, HPA, PAGE_SIZE, PERM_RW);
    writer.setSwitching(true);
    const sequence = reader.switchSequence;
    const pfn = atFirstAdd(
      'after',
      () => {
        expect(writer.invalidate(IOVA, PAGE_SIZE)).to.equal(0);
        writer.clear(IOVA, PAGE_SIZE);
        writer.bump();
        // The reader is inside its section, so the writer sets its flag.
        // A walk into the header would read the flag as a leaf.
        void writer.waitDrained(1);
      },
      () => reader.pin(IOVA, PERM_READ),
    );
    expect(pfn).to.equal(PIN_UNMAPPED);
    expect(reader.switchSequence, "the table's header is unchanged").to.equal(sequence);
    expect(writer.waitDrained(0)).to.equal(undefined);
    writer.reclaim();
    writer.map(IOVA, (HPA + PAGE_SIZE) as Hpa, PAGE_SIZE, PERM_RW);
    expect(reader.pin(IOVA, PERM_RW)).to.equal((HPA + PAGE_SIZE) / PAGE_SIZE);
    expect(writer.pins(IOVA, PAGE_SIZE), 'no pin of the failed attempt').to.equal(1);
  });

  it('follows the new link of a leaf table that is removed and mapped again before the pin', () => {
    const writer = new PinTableWriter(8);
    const reader = new PinTableReader(writer.sab, writer.addReader());
    writer.map(IOVA, HPA, PAGE_SIZE, PERM_RW);
    // The node above the leaf table stays in use.
    writer.map((IOVA + PAGE_2M) as Iova, HPA, PAGE_SIZE, PERM_RW);
    const pfn = atFirstAdd(
      'before',
      () => {
        expect(writer.invalidate(IOVA, PAGE_SIZE)).to.equal(0);
        writer.clear(IOVA, PAGE_SIZE);
        writer.map(IOVA, (HPA + PAGE_SIZE) as Hpa, PAGE_SIZE, PERM_RW);
      },
      () => reader.pin(IOVA, PERM_READ),
    );
    expect(pfn).to.equal((HPA + PAGE_SIZE) / PAGE_SIZE);
    expect(writer.pins(IOVA, PAGE_SIZE)).to.equal(1);
    expect(reader.unpin(IOVA)).to.equal(true);
    expect(writer.pins(IOVA, PAGE_SIZE)).to.equal(0);
  });
});
