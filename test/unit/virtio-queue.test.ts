/**
 * The device side of a split virtqueue, with rings that the test writes by hand.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as virtio from '../../src/abi/virtio.ts';
import type { Chain } from '../../src/virtio/chain.ts';
import { BROKEN, DeviceQueue, INDIRECT_ENTRIES_LIMIT } from '../../src/virtio/device-queue.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';

const DESC = 0x1000;
const AVAIL = 0x2000;
const USED = 0x3000;
const INDIRECT = 0x10000;
const SIZE = 8;
const { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } = virtio;

const readable = (chain: Chain, limit: number): number[] => {
  const bytes = new Uint8Array(limit).fill(0xee);
  return [...bytes.subarray(0, chain.read(bytes))];
};

class Ring {
  readonly ram = smallRam(4 * MIB);
  readonly queue = new DeviceQueue(this.ram);
  #offered = 0;

  constructor(eventIdx = false) {
    this.queue.enable({ size: SIZE, desc: DESC, avail: AVAIL, used: USED }, eventIdx);
  }

  describe(index: number, gpa: number, length: number, flags = 0, next = 0, table = DESC): this {
    const at = table + 16 * index;
    this.ram.write32(at, gpa);
    this.ram.write32(at + 4, 0);
    this.ram.write32(at + 8, length);
    this.ram.write32(at + 12, ((next << 16) | flags) >>> 0);
    return this;
  }

  offer(head: number, count = 1): this {
    const slot = AVAIL + 4 + 2 * (this.#offered % SIZE);
    this.ram.write(slot, Uint8Array.of(head & 0xff, head >>> 8));
    this.#offered = (this.#offered + count) & 0xffff;
    this.ram.write(AVAIL + 2, Uint8Array.of(this.#offered & 0xff, this.#offered >>> 8));
    return this;
  }

  pop(): Chain {
    const chain = this.queue.pop();
    if (!chain || chain === BROKEN) throw new Error(`no chain: ${chain}`);
    return chain;
  }
}

describe('split virtqueue, device side', () => {
  it('returns chains in order, once, and puts them into the used ring', () => {
    const ring = new Ring();
    expect(ring.queue.pop()).to.equal(undefined);
    ring.describe(3, 0x20000, 4, DESC_F_NEXT, 5).describe(5, 0x21000, 6, DESC_F_WRITE).offer(3);
    ring.ram.write(0x20000, Uint8Array.of(1, 2, 3, 4));
    const chain = ring.pop();
    expect(chain.head).to.equal(3);
    expect(readable(chain, 3)).to.deep.equal([1, 2, 3]);
    expect(chain.write(2, Uint8Array.of(7, 8, 9))).to.equal(3);
    expect([...ring.ram.read(0x21000, 6)]).to.deep.equal([0, 0, 7, 8, 9, 0]);
    expect(ring.queue.push(chain.head, 5)).to.equal(true);
    expect([...ring.ram.read(USED, 12)]).to.deep.equal([0, 0, 1, 0, 3, 0, 0, 0, 5, 0, 0, 0]);
    expect(ring.queue.pop()).to.equal(undefined);
  });

  it('wraps around the ring, and at 2^16', () => {
    const ring = new Ring();
    ring.describe(0, 0x20000, 4);
    for (let i = 0; i < 2 ** 16 + 3; i++) ring.queue.push(ring.offer(0).pop().head, i);
    expect(ring.ram.read32(USED) >>> 16).to.equal(3);
    expect(ring.queue.pop()).to.equal(undefined);
  });

  it('writes across buffers, and drops bytes that do not fit', () => {
    const ring = new Ring();
    ring
      .describe(0, 0x20000, 2, DESC_F_WRITE | DESC_F_NEXT, 1)
      .describe(1, 0x21000, 2, DESC_F_WRITE)
      .offer(0);
    expect(ring.pop().write(1, Uint8Array.of(1, 2, 3, 4))).to.equal(3);
    expect([...ring.ram.read(0x20000, 2), ...ring.ram.read(0x21000, 3)]).to.deep.equal([0, 1, 2, 3, 0]);
  });

  it('reads zeros outside RAM, and drops writes there', () => {
    const ring = new Ring();
    ring.describe(0, 0x9000_0000, 4, DESC_F_NEXT, 1).describe(1, 0x9000_0000, 4, DESC_F_WRITE).offer(0);
    const chain = ring.pop();
    expect(readable(chain, 4)).to.deep.equal([0, 0, 0, 0]);
    expect(chain.write(0, Uint8Array.of(1))).to.equal(1);
  });

  it('follows a chain as long as the table, and no loop', () => {
    const ring = new Ring();
    for (let i = 0; i < SIZE; i++) ring.describe(i, 0x20000, 1, i < SIZE - 1 ? DESC_F_NEXT : 0, i + 1);
    expect(ring.offer(0).pop().readableBytes).to.equal(SIZE);
    ring.describe(SIZE - 1, 0x20000, 1, DESC_F_NEXT, 0);
    expect(ring.offer(0).queue.pop()).to.equal(BROKEN);
  });

  const garbage: Readonly<Record<string, (ring: Ring) => unknown>> = {
    'a head outside the table': (ring) => ring.offer(SIZE),
    'a link outside the table': (ring) =>
      ring.describe(0, 0x20000, 4, DESC_F_NEXT, SIZE).describe(SIZE, 0x20000, 4).offer(0),
    'an empty buffer': (ring) => ring.describe(0, 0x20000, 0).offer(0),
    'a readable buffer after a writable one': (ring) =>
      ring
        .describe(0, 0x20000, 4, DESC_F_WRITE | DESC_F_NEXT, 1)
        .describe(1, 0x20000, 4)
        .offer(0),
    'an indirect table with an invalid length': (ring) =>
      ring.describe(0, INDIRECT, 24, DESC_F_INDIRECT).offer(0),
    'an indirect table outside RAM': (ring) => ring.describe(0, 0x9000_0000, 16, DESC_F_INDIRECT).offer(0),
    'an indirect descriptor with a next one': (ring) =>
      ring
        .describe(0, INDIRECT, 16, DESC_F_INDIRECT | DESC_F_NEXT, 1)
        .describe(1, 0x20000, 4)
        .describe(0, 0x20000, 4, 0, 0, INDIRECT)
        .offer(0),
    'an indirect table in an indirect table': (ring) =>
      ring
        .describe(0, INDIRECT, 16, DESC_F_INDIRECT)
        .describe(0, INDIRECT, 16, DESC_F_INDIRECT, 0, INDIRECT)
        .offer(0),
    'an indirect table beyond the limit': (ring) =>
      ring.describe(0, INDIRECT, 16 * (INDIRECT_ENTRIES_LIMIT + 1), DESC_F_INDIRECT).offer(0),
  };
  for (const [what, make] of Object.entries(garbage))
    it(`is broken by ${what}`, () => {
      const ring = new Ring();
      make(ring);
      expect(ring.queue.pop()).to.equal(BROKEN);
    });

  it('follows an indirect table at the limit', () => {
    const ring = new Ring();
    for (let i = 0; i < INDIRECT_ENTRIES_LIMIT; i++) {
      const last = i === INDIRECT_ENTRIES_LIMIT - 1;
      ring.describe(i, 0x20000, 1, last ? DESC_F_WRITE : DESC_F_NEXT, i + 1, INDIRECT);
    }
    const chain = ring
      .describe(0, INDIRECT, 16 * INDIRECT_ENTRIES_LIMIT, DESC_F_INDIRECT)
      .offer(0)
      .pop();
    expect([chain.readableBytes, chain.writableBytes]).to.deep.equal([INDIRECT_ENTRIES_LIMIT - 1, 1]);
  });

  it('is broken by rings outside RAM, misaligned rings, and sizes that are no power of two', () => {
    const ram = smallRam(4 * MIB);
    const good = { size: SIZE, desc: DESC, avail: AVAIL, used: USED };
    for (const wrong of [
      { desc: 0x9000_0000 },
      { avail: 4 * MIB - 2 },
      { used: 2 ** 60 },
      { desc: 8 },
      { avail: 1 },
      { used: 2 },
      { size: 0 },
      { size: 7 },
      { size: 2 * virtio.QUEUE_SIZE_LIMIT },
    ]) {
      const queue = new DeviceQueue(ram);
      queue.enable({ ...good, ...wrong }, false);
      expect(queue.pop(), JSON.stringify(wrong)).to.equal(BROKEN);
      expect(queue.push(0, 0)).to.equal(false);
    }
  });

  it('follows an index that advances by up to one ring length', () => {
    const ring = new Ring();
    for (let i = 0; i < SIZE; i++) ring.describe(i, 0x20000, 4);
    ring.offer(0, SIZE + 5);
    for (let i = 0; i < SIZE; i++) ring.pop();
    expect(ring.queue.pop()).to.equal(undefined);
  });

  it('raises no interrupt that the driver suppresses', () => {
    const ring = new Ring();
    ring.ram.write(AVAIL, Uint8Array.of(virtio.AVAIL_F_NO_INTERRUPT));
    expect(ring.queue.push(0, 0)).to.equal(false);
    const indexed = new Ring(true);
    indexed.ram.write(AVAIL + virtio.availBytes(SIZE) - 2, Uint8Array.of(1));
    expect([indexed.queue.push(0, 0), indexed.queue.push(0, 0)]).to.deep.equal([false, true]);
    indexed.describe(0, 0x20000, 4).offer(0).pop();
    expect(indexed.ram.read(USED + virtio.usedBytes(SIZE) - 2, 1)[0]).to.equal(1);
  });
});
