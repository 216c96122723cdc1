import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DEVICE_MEMORY_BYTES_MAX, DeviceMemory, MEMORY_CHUNK_BYTES } from '../../src/device/memory.ts';
import { Prng } from '../../src/platform/platform.ts';

const CHUNK = MEMORY_CHUNK_BYTES;
const PAGE = 4096;

/** A memory, and the plain bytes that it must equal. */
function pair(name: string, size: number) {
  return { memory: new DeviceMemory(name, size), bytes: Buffer.alloc(size) };
}

const contents = (memory: DeviceMemory): Buffer => {
  const all = Buffer.alloc(memory.size);
  memory.readInto(0, all);
  return all;
};

describe('device memory', () => {
  it('allocates only written chunks, whatever its size', () => {
    const memory = new DeviceMemory('vram', DEVICE_MEMORY_BYTES_MAX);
    expect([memory.read(DEVICE_MEMORY_BYTES_MAX - 8, 8), memory.allocatedBytes]).to.deep.equal([0n, 0]);
    memory.write(DEVICE_MEMORY_BYTES_MAX - 8, 8, 0x1122_3344_5566_7788n);
    memory.write(2 ** 33 + 3, 2, 0xabcdn);
    expect(memory.read(DEVICE_MEMORY_BYTES_MAX - 4, 4)).to.equal(0x1122_3344n);
    expect([memory.read(2 ** 33 + 4, 1), memory.allocatedBytes]).to.deep.equal([0xabn, 2 * CHUNK]);
    memory.fill(2 ** 33, CHUNK, 0);
    expect(memory.allocatedBytes, 'a chunk of zeros is freed').to.equal(CHUNK);
  });

  it('reads and writes across its chunks', () => {
    const memory = new DeviceMemory('vram', 2 * CHUNK);
    memory.write(CHUNK - 3, 8, 0x0807_0605_0403_0201n);
    expect(memory.read(CHUNK - 3, 8)).to.equal(0x0807_0605_0403_0201n);
    expect([memory.read(CHUNK - 1, 2), memory.read(CHUNK, 4)]).to.deep.equal([0x0403n, 0x0706_0504n]);
  });

  it('logs exactly the pages of a write that ends with a page', () => {
    const memory = new DeviceMemory('vram', 2 * CHUNK);
    memory.startTracking();
    memory.store(PAGE, new Uint8Array(2 * PAGE).fill(1));
    expect(memory.takeDirty(CHUNK)).to.deep.equal([{ offset: PAGE, length: 2 * PAGE, zero: false }]);
    memory.write(2 * PAGE - 4, 4, 1n);
    expect(memory.takeDirty(CHUNK)).to.deep.equal([{ offset: PAGE, length: PAGE, zero: false }]);
  });

  it('refuses ranges outside without any change', () => {
    const memory = new DeviceMemory('fb', 8192);
    const outside: (() => unknown)[] = [
      () => memory.read(8185, 8),
      () => memory.write(-1, 1, 0n),
      () => memory.store(8190, Uint8Array.of(1, 2, 3)),
      () => memory.readInto(Number.NaN, new Uint8Array(1)),
      () => memory.readable(8192, 1),
      () => memory.writable(0, 8193),
      () => memory.fill(4096, 8192, 1),
      () => memory.clear(8193, 0),
      () => memory.move(0, memory, 4096, 4097),
      () => memory.move(4096, new DeviceMemory('other', 8192), 0, 4097),
      () => memory.fill(2, 4, 1),
    ];
    for (const attempt of outside) expect(attempt, String(attempt)).to.throw(RangeError, "memory 'fb'");
    expect(memory.allocatedBytes).to.equal(0);
    expect(() => new DeviceMemory('x', 0)).to.throw(RangeError, 'accepted: 1 to');
    expect(() => new DeviceMemory('x', 2 ** 35)).to.throw(RangeError, 'accepted: 1 to');
  });

  it('equals plain bytes after any writes, fills, clears and moves', () => {
    const random = new Prng(7);
    for (let round = 0; round < 20; round++) {
      const [a, b] = [pair('a', 3 * CHUNK + 100), pair('b', 2 * CHUNK)] as const;
      for (let i = 0; i < 60; i++) {
        const [to, from] = random.below(2) === 0 ? [a, b] : random.below(2) === 0 ? [b, a] : [a, a];
        const length = random.below(
          random.below(2) === 0 ? 64 : Math.min(to.memory.size, from.memory.size) + 1,
        );
        const at = random.below(to.memory.size - length + 1);
        const source = random.below(from.memory.size - length + 1);
        const kind = random.below(4);
        if (kind === 0) {
          const bytes = Buffer.alloc(length, random.below(256));
          to.memory.store(at, bytes);
          to.bytes.set(bytes, at);
        } else if (kind === 1) {
          const [start, size] = [at - (at % 4), length - (length % 4)];
          const value = random.below(3) === 0 ? 0 : random.below(2 ** 32);
          to.memory.fill(start, size, value);
          for (let w = start; w < start + size; w += 4) to.bytes.writeUInt32LE(value, w);
        } else if (kind === 2 && random.below(4) === 0) {
          to.memory.clear(at, length);
          to.bytes.fill(0, at, at + length);
        } else {
          to.memory.move(at, from.memory, source, length);
          to.bytes.set(Buffer.from(from.bytes.subarray(source, source + length)), at);
        }
      }
      expect(contents(a.memory).equals(a.bytes), `a in round ${round}`).to.equal(true);
      expect(contents(b.memory).equals(b.bytes), `b in round ${round}`).to.equal(true);
    }
  });
});

describe('dirty log of a device memory', () => {
  const take = (memory: DeviceMemory, bytes = 2 ** 20) =>
    memory.takeDirty(bytes).map(({ offset, length, zero }) => [offset / PAGE, length, zero]);

  it('is off until it is enabled, then reports earlier writes once', () => {
    const memory = new DeviceMemory('vram', 2 ** 30);
    memory.write(5 * PAGE, 4, 1n);
    memory.write(2 ** 20, 1, 1n);
    expect([take(memory), memory.dirty]).to.deep.equal([[], { initialBytes: 0, dirtyBytes: 0 }]);
    memory.startTracking();
    expect(memory.dirty).to.deep.equal({ initialBytes: 2 * CHUNK, dirtyBytes: 0 });
    expect(take(memory)).to.deep.equal([
      [0, 5 * PAGE, true],
      [5, PAGE, false],
      [6, 10 * PAGE, true],
      [256, PAGE, false],
      [257, 15 * PAGE, true],
    ]);
    expect(take(memory)).to.deep.equal([]);
    memory.write(2 ** 20 + 2 * PAGE - 1, 2, 0xffffn);
    expect(take(memory)).to.deep.equal([[257, 2 * PAGE, false]]);
    memory.stopTracking();
    memory.write(0, 1, 1n);
    expect([memory.tracking, take(memory)]).to.deep.equal([false, []]);
  });

  it('reports a page once that is written before the first pass sends it', () => {
    const memory = new DeviceMemory('fb', 3 * PAGE + 10);
    memory.write(0, 1, 1n);
    memory.startTracking();
    expect(memory.dirty.initialBytes).to.equal(4 * PAGE);
    memory.write(PAGE, 1, 1n);
    expect(take(memory, PAGE)).to.deep.equal([[0, PAGE, false]]);
    memory.write(0, 1, 2n);
    expect(memory.dirty).to.deep.equal({ initialBytes: 3 * PAGE, dirtyBytes: PAGE });
    expect(take(memory, 1), 'at least a page').to.deep.equal([[1, PAGE, false]]);
    expect(take(memory)).to.deep.equal([
      [2, PAGE + 10, true],
      [0, PAGE, false],
    ]);
  });

  it('keeps a copy equal to the memory after any operations', () => {
    const random = new Prng(11);
    const memory = new DeviceMemory('vram', 5 * CHUNK + 3 * PAGE + 20);
    const copy = new DeviceMemory('copy', memory.size);
    memory.store(1000, Buffer.alloc(2 * CHUNK, 7));
    memory.startTracking();
    const follow = (bytes: number): void => {
      for (const { offset, length, zero } of memory.takeDirty(bytes)) {
        const block = Buffer.alloc(length);
        memory.readInto(offset, block);
        if (zero) copy.clear(offset, length);
        else copy.store(offset, block);
      }
    };
    for (let i = 0; i < 400; i++) {
      const length = random.below(2 * CHUNK);
      const at = random.below(memory.size - length);
      const kind = random.below(4);
      if (kind === 0) memory.store(at, Buffer.alloc(length, random.below(256)));
      else if (kind === 1) memory.clear(at, length);
      else if (kind === 2) memory.move(at, memory, random.below(memory.size - length), length);
      else memory.fill(at - (at % 4), length - (length % 4), random.below(2 ** 32));
      follow(random.below(8 * PAGE));
    }
    follow(memory.size * 2);
    expect(contents(copy).equals(contents(memory))).to.equal(true);
    expect(memory.dirty).to.deep.equal({ initialBytes: 0, dirtyBytes: 0 });
  });
});
