import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { Prng } from '#host';
import { FOUR_GIB, type Gpa, type Hpa, PAGE_SIZE } from '../../src/memory/address.ts';
import { GuestAddressError, GuestRam, MMIO_HOLE_START } from '../../src/memory/guest-ram.ts';
import {
  FRAME_SIZE,
  HostAddressError,
  HostMemory,
  HPA_BASE,
  HPA_LIMIT,
} from '../../src/memory/host-memory.ts';

const MIB = 2 ** 20;
const BELOW = 8 * MIB;
const ABOVE = 6 * MIB;
const ram = (seed = 1) => GuestRam.allocate(HPA_BASE as Hpa, BELOW, ABOVE, new Prng(seed));

describe('GuestRam', () => {
  it('backs RAM with a permutation of the slab frames, where no HPA equals its GPA', () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const guest = ram(seed);
        const frames = new Set<number>();
        for (const { gpa, size } of guest.regions)
          for (let at: number = gpa; at < gpa + size; at += FRAME_SIZE) {
            const hpa = guest.hpaOf(at) as number;
            expect(hpa % FRAME_SIZE).to.equal(0);
            expect(hpa).to.be.within(HPA_BASE, HPA_BASE + BELOW + ABOVE - FRAME_SIZE);
            expect(guest.hpaOf(at + PAGE_SIZE + 1), 'contiguous inside a frame').to.equal(
              hpa + PAGE_SIZE + 1,
            );
            for (const offset of [0, 1, PAGE_SIZE, FRAME_SIZE - 1])
              expect(guest.hpaOf(at + offset)).to.not.equal(at + offset);
            frames.add(hpa);
          }
        expect(frames.size).to.equal((BELOW + ABOVE) / FRAME_SIZE);
      }),
      { numRuns: 30 },
    );
  });

  it('shuffles equally for equal seeds, and differently for others', () => {
    const order = (seed: number) => [
      ...GuestRam.allocate(HPA_BASE as Hpa, 64 * MIB, 0, new Prng(seed)).handle.frames,
    ];
    expect(order(7)).to.deep.equal(order(7));
    expect(order(7)).to.not.deep.equal(order(8));
  });

  it('writes and reads across every pair of frames in the frames of both', () => {
    const guest = ram();
    const bytes = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    for (const { gpa, size } of guest.regions)
      for (let end = gpa + FRAME_SIZE; end < gpa + size; end += FRAME_SIZE) {
        guest.write(end - 4, bytes);
        expect([guest.read32(end - 4), guest.read32(end)]).to.deep.equal([0x0403_0201, 0x0807_0605]);
        expect([...guest.read(end - 4, 8)]).to.deep.equal([...bytes]);
      }
  });

  it('returns written bytes at any address and length, across frames', () => {
    const guest = ram();
    const place = fc.tuple(
      fc.boolean(),
      fc.nat(),
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fc.nat(3),
    );
    fc.assert(
      fc.property(place, ([high, at, pattern, stretch]) => {
        const bytes = new Uint8Array(Buffer.alloc(pattern.length + stretch * FRAME_SIZE, pattern));
        const region = high ? { base: FOUR_GIB, size: ABOVE } : { base: 0, size: BELOW };
        if (bytes.length > region.size) return;
        // Half of the addresses lie near the end of a frame.
        const near = at % 2 === 0 ? at : (1 + (at % 3)) * FRAME_SIZE - (at % 200);
        const gpa = region.base + (near % (region.size - bytes.length + 1));
        guest.write(gpa, bytes);
        expect(Buffer.from(guest.read(gpa, bytes.length)).equals(bytes)).to.equal(true);
        expect(guest.equals(gpa, bytes)).to.equal(true);
        for (const wrong of [0, bytes.length - 1]) {
          const damaged = bytes.slice();
          damaged[wrong] = ~(damaged[wrong] as number);
          expect(guest.equals(gpa, damaged)).to.equal(false);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('returns host extents that cover a range in order and hold its bytes', () => {
    const guest = ram(3);
    const [gpa, size] = [(FRAME_SIZE - 2 * PAGE_SIZE) as Gpa, 2 * FRAME_SIZE + 3 * PAGE_SIZE];
    guest.write(
      gpa,
      Uint8Array.from({ length: size }, (_, i) => i / PAGE_SIZE),
    );
    const extents = guest.extents(gpa, size);
    expect(extents.reduce((sum, extent) => sum + extent.size, 0)).to.equal(size);
    const gathered = new Uint8Array(size);
    let at = 0;
    for (const extent of extents) {
      guest.host.read(extent.hpa, gathered, at, extent.size);
      at += extent.size;
    }
    expect(Buffer.from(gathered).equals(guest.read(gpa, size))).to.equal(true);
  });

  it('merges neighbouring host frames into one extent', () => {
    const memory = HostMemory.allocate(HPA_BASE as Hpa, 6 * MIB);
    const guest = new GuestRam({
      memory: memory.handle,
      below4g: 6 * MIB,
      above4g: 0,
      frames: Int32Array.of(1, 2, 0),
    });
    expect(guest.extents(0 as Gpa, 6 * MIB)).to.deep.equal([
      { hpa: HPA_BASE + FRAME_SIZE, size: 2 * FRAME_SIZE },
      { hpa: HPA_BASE, size: FRAME_SIZE },
    ]);
  });

  it('refuses accesses that touch or span the hole below 4 GiB', () => {
    const guest = ram();
    for (const [gpa, length] of [
      [BELOW, 1],
      [BELOW - 1, 2],
      [FOUR_GIB - 1, 1],
      [FOUR_GIB - 1, 2],
      [FOUR_GIB + ABOVE, 1],
      [FOUR_GIB + ABOVE - 1, 2],
      [BELOW - 4, FOUR_GIB],
      [-1, 1],
    ] as const) {
      expect(guest.contains(gpa, length)).to.equal(false);
      expect(() => guest.read(gpa, length)).to.throw(GuestAddressError);
      expect(() => guest.write(gpa, new Uint8Array(Math.min(length, 8)))).to.throw(GuestAddressError);
      expect(() => guest.extents(gpa as Gpa, length)).to.throw(GuestAddressError);
    }
    expect(guest.hpaOf(BELOW)).to.equal(undefined);
    expect(guest.hpaOf(FOUR_GIB - 1)).to.equal(undefined);
    expect(guest.contains(BELOW - 1, 1)).to.equal(true);
    expect(guest.contains(FOUR_GIB + ABOVE - 1, 1)).to.equal(true);
  });

  it('names the ranges of RAM in the error', () => {
    expect(() => ram().read(0x9000_0000, 16)).to.throw(
      'guest address 0x90000000 +16 is not guest RAM (0x0..0x7fffff, 0x100000000..0x1005fffff)',
    );
    const small = GuestRam.allocate(HPA_BASE as Hpa, FRAME_SIZE, 0, new Prng(1));
    expect(() => small.read32(FRAME_SIZE)).to.throw('(0x0..0x1fffff)');
  });

  it('reads and writes words in little-endian order, and refuses unaligned ones', () => {
    const guest = ram();
    guest.write32(FRAME_SIZE - 4, 0x8765_4321);
    expect(guest.read32(FRAME_SIZE - 4)).to.equal(0x8765_4321);
    expect([...guest.read(FRAME_SIZE - 4, 4)]).to.deep.equal([0x21, 0x43, 0x65, 0x87]);
    expect(() => guest.read32(2)).to.throw(GuestAddressError);
  });

  it('wakes a waiter on a word when the word is published', async () => {
    const guest = ram();
    const other = new GuestRam(guest.handle);
    const waiting = guest.waitWhile32(64, 0, 10_000);
    other.publish32(64, 0xffff_fff0);
    expect(await waiting).to.equal(true);
    expect(guest.waitWhile32(64, 0, 10_000)).to.equal(undefined);
    expect(await guest.waitWhile32(64, 0xffff_fff0, 1), 'time-out').to.equal(false);
  });

  it('refuses invalid RAM sizes, and accepts the smallest and the largest', () => {
    const allocate = (below: number, above: number) => () =>
      GuestRam.allocate(HPA_BASE as Hpa, below, above, new Prng(1));
    expect(allocate(0, 0)).to.throw(RangeError, '2 MiB to 2 GiB');
    expect(allocate(FRAME_SIZE + 1, 0)).to.throw(RangeError, 'not a multiple of 2 MiB');
    expect(allocate(FRAME_SIZE, -FRAME_SIZE)).to.throw(RangeError);
    expect(allocate(MMIO_HOLE_START + FRAME_SIZE, 0)).to.throw(RangeError, '2 MiB to 2 GiB');
    expect(allocate(FRAME_SIZE, 0)).to.not.throw();
    expect(allocate(MMIO_HOLE_START, FRAME_SIZE)).to.not.throw();
  });
});

describe('HostMemory', () => {
  it('refuses any access outside the slab', () => {
    const memory = HostMemory.allocate(HPA_BASE as Hpa, FRAME_SIZE);
    const last = (HPA_BASE + FRAME_SIZE - 4) as Hpa;
    memory.fill32(last, 4, 0x0102_0304);
    expect(() => memory.fill32(last, 8, 0)).to.throw(HostAddressError, '0x10000000000..0x100001fffff');
    expect(() => memory.copy((HPA_BASE - 4) as Hpa, last, 4)).to.throw(HostAddressError);
    expect(() => memory.read((HPA_BASE + FRAME_SIZE) as Hpa, new Uint8Array(1))).to.throw(HostAddressError);
    expect(() => memory.crc32(0 as Hpa, 4, 0)).to.throw(HostAddressError);
  });

  it('may end at the highest HPA of a pin table, but not above', () => {
    expect(() => HostMemory.allocate((HPA_LIMIT - FRAME_SIZE) as Hpa, FRAME_SIZE)).to.not.throw();
    expect(() => HostMemory.allocate(HPA_LIMIT as Hpa, FRAME_SIZE)).to.throw(RangeError, 'HPA limit');
    expect(() => HostMemory.allocate(HPA_BASE as Hpa, 0)).to.throw(RangeError);
    expect(() => HostMemory.allocate(HPA_BASE as Hpa, PAGE_SIZE)).to.throw(RangeError);
  });

  it('moves overlapping ranges as if through a buffer', () => {
    const memory = HostMemory.allocate(HPA_BASE as Hpa, FRAME_SIZE);
    memory.write(
      HPA_BASE as Hpa,
      Uint8Array.from({ length: 200 }, (_, i) => i),
    );
    memory.copy((HPA_BASE + 10) as Hpa, HPA_BASE as Hpa, 150);
    const bytes = new Uint8Array(150);
    memory.read((HPA_BASE + 10) as Hpa, bytes);
    expect([...bytes]).to.deep.equal(Array.from({ length: 150 }, (_, i) => i));
  });
});
