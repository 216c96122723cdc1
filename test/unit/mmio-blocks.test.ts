import { expect } from 'chai';
import { describe, it } from 'mocha';
import {
  MMIO_CHANNEL_BYTES,
  MMIO_RING_ENTRIES,
  MMIO_WINDOW_BYTES,
  MmioPort,
  MmioServer,
  type MmioTarget,
} from '../../src/channel/mmio-channel.ts';
import { serveUntil } from '../fixtures/mmio-serving.ts';

/** Memory behind a channel that records its accesses. */
class Memory implements MmioTarget {
  readonly bytes = new Uint8Array(3 * MMIO_WINDOW_BYTES);
  readonly log: string[] = [];
  read(_region: number, offset: number): bigint {
    this.log.push(`r${offset}`);
    return BigInt(this.bytes[offset]!);
  }
  write(_region: number, offset: number, _size: number, value: bigint): void {
    this.log.push(`w${offset}`);
    this.bytes[offset] = Number(value & 0xffn);
  }
  readBlock(_region: number, offset: number, target: Uint8Array): void {
    this.log.push(`rb${offset}+${target.length}`);
    target.set(this.bytes.subarray(offset, offset + target.length));
  }
  writeBlock(_region: number, offset: number, source: Uint8Array): void {
    this.log.push(`wb${offset}+${source.length}`);
    this.bytes.set(source, offset);
  }
}

function channel() {
  const sab = new SharedArrayBuffer(MMIO_CHANNEL_BYTES + MMIO_WINDOW_BYTES);
  const port = new MmioPort(sab, 0, () => {}, MMIO_CHANNEL_BYTES);
  return { sab, port, server: new MmioServer(sab, 0, MMIO_CHANNEL_BYTES), memory: new Memory() };
}

const ramp = (bytes: number) => Uint8Array.from({ length: bytes }, (_, i) => i % 251);

describe('block accesses through an MMIO channel', () => {
  it('are split when longer than the window, and return complete', async () => {
    const { port, server, memory } = channel();
    const bytes = ramp(2 * MMIO_WINDOW_BYTES + 5);
    const back = new Uint8Array(bytes.length);
    await serveUntil(port.writeBlock(0, 3, bytes), server, memory, 1);
    await serveUntil(port.readBlock(0, 3, back), server, memory, 1);
    expect(Buffer.from(back).equals(bytes)).to.equal(true);
    const last = 2 * MMIO_WINDOW_BYTES + 3;
    expect(memory.log.filter((entry) => entry.includes(`b${last}+`))).to.deep.equal([
      `wb${last}+5`,
      `rb${last}+5`,
    ]);
  });

  it('keep their order with writes and reads, and use the window one at a time', async () => {
    const { port, server, memory } = channel();
    const [first, second] = [new Uint8Array(4), new Uint8Array(4)];
    const work = [
      port.writeBlock(0, 0, ramp(4)),
      port.writeBlock(0, 8, ramp(4).reverse()),
      port.readBlock(0, 0, first),
      port.readBlock(0, 8, second),
      port.read(0, 1, 1),
    ];
    const results = await serveUntil(Promise.all(work as Promise<unknown>[]), server, memory, 1);
    expect([...first, ...second, results.at(-1)]).to.deep.equal([0, 1, 2, 3, 3, 2, 1, 0, 1n]);
    expect(memory.log).to.deep.equal(['wb0+4', 'wb8+4', 'rb0+4', 'rb8+4', 'r1']);
  });

  it('wait for space in a full ring, behind the writes that fill it', async () => {
    const { port, server, memory } = channel();
    for (let i = 0; i < MMIO_RING_ENTRIES + 1; i++) void port.write(0, i, 1, 1n);
    const back = new Uint8Array(MMIO_RING_ENTRIES + 2);
    await serveUntil(port.readBlock(0, 0, back), server, memory, 1);
    expect([back.at(-2), back.at(-1)]).to.deep.equal([1, 0]);
  });

  it('are dropped when a guest posts one longer than the window', () => {
    const { sab, server, memory } = channel();
    const words = new Int32Array(sab);
    const entries = 8;
    for (const [index, op] of [3, 4].entries())
      words.set([op, 0, 0, MMIO_WINDOW_BYTES + 1], entries + index * entries);
    words[0] = 2;
    expect(server.serve(memory, 2)).to.equal(false);
    expect(memory.log).to.deep.equal([]);
  });

  it('read as ones without an owner or block support, and fail without a window', async () => {
    const { sab, port, server, memory } = channel();
    const back = new Uint8Array(2);
    const single: MmioTarget = { read: () => 0n, write: () => {} };
    await serveUntil(port.readBlock(0, 0, back), server, single, 1);
    expect([...back]).to.deep.equal([255, 255]);
    back.fill(0);
    server.close();
    await port.writeBlock(0, 0, ramp(4));
    await port.readBlock(0, 0, back);
    expect([[...back], memory.log]).to.deep.equal([[255, 255], []]);
    const bare = new MmioPort(sab, 0, () => {});
    const refused = await bare.readBlock(0, 0, back).catch((error: unknown) => error);
    expect(String(refused)).to.equal('RangeError: this channel has no window for blocks');
  });
});
