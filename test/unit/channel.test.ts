import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import { DeviceLink, DeviceState, MAX_VECTORS, RING_MMIO } from '../../src/channel/device-link.ts';
import { Doorbell, doorbellWords } from '../../src/channel/doorbell.ts';
import { FrameRing, frameRingBytes } from '../../src/channel/frame-ring.ts';
import { Gate } from '../../src/channel/gate.ts';
import {
  MMIO_CHANNEL_BYTES,
  MMIO_RING_ENTRIES,
  MmioPort,
  MmioServer,
  type MmioTarget,
} from '../../src/channel/mmio-channel.ts';
import type { AccessSize } from '../../src/memory/bus-access.ts';
import { interposed } from '../fixtures/interleave.ts';
import { serveUntil } from '../fixtures/mmio-serving.ts';

describe('Doorbell', () => {
  it('returns each sender that rang exactly once, for any order and count of rings', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(99), { maxLength: 200 }), (rings) => {
        const sab = new SharedArrayBuffer(doorbellWords(100) * 4);
        const [sender, waiter] = [new Doorbell(sab, 0, 100), new Doorbell(sab, 0, 100)];
        for (const ring of rings) sender.ring(ring);
        const seen: number[] = [];
        expect(waiter.take((who) => seen.push(who))).to.equal(seen.length);
        expect(seen).to.deep.equal([...new Set(rings)].sort((a, b) => a - b));
        expect(waiter.take(() => {})).to.equal(0);
      }),
    );
  });

  it('does not let a waiter sleep when a ring came after it read the sequence', () => {
    const bell = new Doorbell(new SharedArrayBuffer(doorbellWords(1) * 4), 0, 1);
    const before = bell.sequence;
    bell.ring(0);
    expect(bell.waitAsync(before, 10_000)).to.equal(undefined);
    bell.wait(before, 10_000);
  });

  it('wakes the waiter', async () => {
    const bell = new Doorbell(new SharedArrayBuffer(doorbellWords(33) * 4), 0, 33);
    const waiting = bell.waitAsync(bell.sequence, 10_000);
    bell.ring(32);
    expect(await waiting).to.equal(true);
    expect(bell.take((who) => expect(who).to.equal(32))).to.equal(1);
  });

  it('returns false when no ring comes within the timeout', async () => {
    const bell = new Doorbell(new SharedArrayBuffer(doorbellWords(1) * 4), 0, 1);
    expect(await bell.waitAsync(bell.sequence, 1)).to.equal(false);
  });
});

describe('FrameRing', () => {
  const CAPACITY = 64;
  /** A ring with both counters at `start`, so that tests cross the wrap of the ring and of the counters. */
  const ringAt = (start: number) => {
    const sab = new SharedArrayBuffer(frameRingBytes(CAPACITY));
    new Int32Array(sab, 0, 2).fill(start);
    return [new FrameRing(sab, 0, CAPACITY), new FrameRing(sab, 0, CAPACITY)] as const;
  };

  it('is a bounded queue of byte strings, also across the wrap of ring and counters', () => {
    const operation = fc.option(fc.uint8Array({ maxLength: 70 }), { freq: 3 });
    const start = fc.constantFrom(0, 60, 2 ** 31 - 32, -32);
    fc.assert(
      fc.property(start, fc.array(operation, { maxLength: 120, size: 'max' }), (at, operations) => {
        const [producer, consumer] = ringAt(at);
        const queue: Uint8Array[] = [];
        const room = () => CAPACITY - queue.reduce((sum, f) => sum + 4 + Math.ceil(f.length / 4) * 4, 0);
        let refused = 0;
        for (const frame of operations) {
          if (frame === null) {
            expect(consumer.shift()).to.deep.equal(queue.shift());
            continue;
          }
          const fits = 4 + Math.ceil(frame.length / 4) * 4 <= room();
          expect(producer.push(frame)).to.equal(fits);
          if (fits) queue.push(frame);
          else refused++;
        }
        expect(producer.refused).to.equal(refused);
        for (const frame of queue) expect(consumer.shift()).to.deep.equal(frame);
        expect(consumer.shift()).to.equal(undefined);
      }),
    );
  });

  it('accepts a frame that fills it exactly, and then refuses an empty frame', () => {
    const [ring] = ringAt(0);
    expect(ring.push(new Uint8Array(CAPACITY - 4))).to.equal(true);
    expect(ring.push(new Uint8Array(0))).to.equal(false);
    expect(ring.refused).to.equal(1);
    expect(ring.shift()).to.have.length(CAPACITY - 4);
    expect(ring.push(new Uint8Array(CAPACITY - 3))).to.equal(false);
  });
});

/** A register space that records its accesses and answers reads with `answer`. */
class RecordingTarget implements MmioTarget {
  readonly log: string[] = [];
  answer = 0n;
  read(region: number, offset: number, size: AccessSize): bigint {
    this.log.push(`r${region}:${offset}/${size}`);
    return this.answer;
  }
  write(region: number, offset: number, size: AccessSize, value: bigint): void {
    this.log.push(`w${region}:${offset}/${size}=${value.toString(16)}`);
  }
}

function mmioRig() {
  const sab = new SharedArrayBuffer(MMIO_CHANNEL_BYTES);
  let rings = 0;
  const port = new MmioPort(sab, 0, () => rings++);
  return { port, server: new MmioServer(sab, 0), target: new RecordingTarget(), rings: () => rings };
}

describe('MMIO channel', () => {
  it('keeps writes and reads in order, and rings for each', async () => {
    const { port, server, target, rings } = mmioRig();
    port.write(0, 0x10, 8, 0xfedc_ba98_7654_3210n);
    target.answer = 0x8000_0000_1234_5678n;
    expect(await serveUntil(port.read(7, 4, 8), server, target, 16)).to.equal(0x8000_0000_1234_5678n);
    port.write(0, 0x20, 4, 0xffff_ffffn);
    expect(await serveUntil(port.read(0, 0x24, 2), server, target, 16), 'truncated to its size').to.equal(
      0x5678n,
    );
    expect(target.log).to.deep.equal(['w0:16/8=fedcba9876543210', 'r7:4/8', 'w0:32/4=ffffffff', 'r0:36/2']);
    expect(rings()).to.equal(4);
  });

  it('answers each of several pending reads with its own value', async () => {
    const { port, server } = mmioRig();
    const echo: MmioTarget = { read: (_region, offset) => BigInt(offset), write: () => {} };
    const reads = Promise.all([1, 2, 3, 4, 5].map((offset) => port.read(0, offset, 4)));
    expect(await serveUntil(reads, server, echo, 1)).to.deep.equal([1n, 2n, 3n, 4n, 5n]);
  });

  it(`accepts ${MMIO_RING_ENTRIES} writes at once, and lets more wait for space in order`, async () => {
    const { port, server, target } = mmioRig();
    for (let i = 0; i < MMIO_RING_ENTRIES; i++) expect(port.write(0, i, 4, 0n)).to.equal(undefined);
    const late = [port.write(0, 1000, 4, 0n), port.write(0, 1001, 4, 0n)];
    for (const write of late) expect(write).to.be.instanceOf(Promise);
    const read = port.read(0, 1002, 4);
    await yieldTurn();
    server.serve(target, 1);
    // The ring has space now, but two earlier entries still wait.
    late.push(port.write(0, 1003, 4, 0n));
    await serveUntil(Promise.all([...late, read]), server, target, 1);
    server.serve(target, 10);
    const tail = target.log.slice(MMIO_RING_ENTRIES).map((entry) => Number(/:(\d+)/.exec(entry)?.[1]));
    expect(tail.filter((offset) => offset !== 1002)).to.deep.equal([1000, 1001, 1003]);
    expect(tail.indexOf(1002), 'the read comes after the writes made before it').to.be.greaterThan(1);
  });

  it('serves at most the given count of entries, and returns whether more wait', () => {
    const { port, server, target } = mmioRig();
    for (let i = 0; i < 3; i++) port.write(0, i, 1, 0n);
    expect(server.serve(target, 2)).to.equal(true);
    expect(target.log).to.have.length(2);
    expect(server.serve(target, 2)).to.equal(false);
    expect(server.serve(target, 2)).to.equal(false);
  });

  it('returns all ones of the access size after the owner has gone', async () => {
    const { port, server } = mmioRig();
    server.close();
    expect(await port.read(0, 0, 1)).to.equal(0xffn);
    expect(await port.read(0, 0, 8)).to.equal(0xffff_ffff_ffff_ffffn);
  });

  it('ends a waiting read when the owner goes', async () => {
    const { port, server } = mmioRig();
    const read = port.read(0, 0, 4);
    await yieldTurn();
    server.close();
    expect(await read).to.equal(0xffff_ffffn);
  });

  it('does not let a reader sleep that checked just before the owner went', async () => {
    const { port, server } = mmioRig();
    const { result, outcomes } = await interposed(
      'waitAsync',
      () => server.close(),
      () => port.read(0, 0, 4),
    );
    expect(result).to.equal(0xffff_ffffn);
    expect(outcomes).to.deep.equal([{ async: false, value: 'not-equal' }]);
  });

  it('does not let a writer at a full ring sleep that checked just before the owner went', async () => {
    const { port, server } = mmioRig();
    for (let i = 0; i < MMIO_RING_ENTRIES; i++) port.write(0, i, 4, 0n);
    const { outcomes } = await interposed(
      'waitAsync',
      () => server.close(),
      () => port.write(0, 0, 4, 0n),
    );
    expect(outcomes).to.deep.equal([{ async: false, value: 'not-equal' }]);
  });

  it('drops writes to a full ring after the owner has gone, without a wait', async () => {
    const { port, server } = mmioRig();
    server.close();
    const { outcomes } = await interposed(
      'waitAsync',
      () => {},
      async () => {
        for (let i = 0; i < 2 * MMIO_RING_ENTRIES; i++) await port.write(0, i, 4, 0n);
      },
    );
    expect(outcomes).to.deep.equal([]);
  });
});

describe('combined writes of an MMIO port', () => {
  /** Returns the writes that the owner sees, as [offset, value]. */
  const served = (server: MmioServer) => {
    const writes: [number, number][] = [];
    server.serve(
      {
        read: () => 7n,
        write: (_region, offset, _size, value) => void writes.push([offset, Number(value)]),
      },
      MMIO_RING_ENTRIES,
    );
    return writes;
  };

  it('are posted once for each register, with the last value, when the callback has ended', async () => {
    const { port, server } = mmioRig();
    for (const value of [1, 2, 3]) {
      port.writeCombined(0, 8, 4, value);
      port.writeCombined(0, 16, 4, 10 * value);
    }
    expect(served(server), 'not yet').to.deep.equal([]);
    await Promise.resolve();
    port.writeCombined(0, 8, 4, 4);
    await yieldTurn();
    expect(served(server)).to.deep.equal([
      [8, 4],
      [16, 30],
    ]);
  });

  it('come before any later access', async () => {
    const { port, server } = mmioRig();
    port.writeCombined(0, 8, 4, 1);
    port.write(0, 24, 4, 2n);
    port.writeCombined(0, 8, 4, 3);
    const read = port.read(0, 0, 4);
    await Promise.resolve();
    expect(served(server)).to.deep.equal([
      [8, 1],
      [24, 2],
      [8, 3],
    ]);
    expect(await read).to.equal(7n);
    expect(served(server), 'no write twice').to.deep.equal([]);
  });

  it('enter the ring even if the gate has closed after they were made', async () => {
    const sab = new SharedArrayBuffer(MMIO_CHANNEL_BYTES);
    const gate = new Gate();
    const port = new MmioPort(sab, 0, () => {}, undefined, gate);
    port.writeCombined(0, 8, 4, 1);
    gate.close();
    await yieldTurn();
    expect(served(new MmioServer(sab, 0))).to.deep.equal([[8, 1]]);
    expect(port.unfinished).to.deep.equal([]);
  });

  it('wait for room behind earlier accesses', async () => {
    const { port, server } = mmioRig();
    for (let i = 0; i < MMIO_RING_ENTRIES; i++) port.write(0, 0, 4, 0n);
    const last = port.write(0, 1, 4, 0n);
    port.writeCombined(0, 8, 4, 1);
    await yieldTurn();
    served(server);
    await last;
    await yieldTurn();
    expect(served(server)).to.deep.equal([
      [1, 0],
      [8, 1],
    ]);
  });
});

describe('DeviceLink', () => {
  it('counts interrupts per vector, and wakes a waiter for events', async () => {
    const device = new DeviceLink();
    const guest = new DeviceLink(device.sab);
    const before = guest.events;
    const waiting = guest.waitEvents(before, 10_000);
    device.interrupt(0);
    device.interrupt(0);
    device.interrupt(MAX_VECTORS - 1);
    expect(await waiting).to.equal(true);
    expect([0, 1, MAX_VECTORS - 1].map((v) => guest.interrupts(v))).to.deep.equal([2, 0, 1]);
    expect(guest.waitEvents(before, 10_000), 'earlier events').to.equal(undefined);
  });

  it('shows a change of state to the other end as an event', () => {
    const device = new DeviceLink();
    const guest = new DeviceLink(device.sab);
    expect(guest.state).to.equal(DeviceState.starting);
    const before = guest.events;
    device.setState(DeviceState.ready);
    expect(guest.state).to.equal(DeviceState.ready);
    expect(guest.events).to.not.equal(before);
  });

  it('keeps its parts separate when one of them is full', async () => {
    const link = new DeviceLink();
    while (link.toDevice.push(new Uint8Array(1000).fill(0xee)));
    while (link.fromDevice.push(new Uint8Array(1000).fill(0xdd)));
    const port = link.mmioPort();
    for (let i = 0; i < MMIO_RING_ENTRIES; i++) port.write(0, -1, 8, -1n);
    for (let vector = 0; vector < MAX_VECTORS; vector++) link.interrupt(vector);
    expect(link.state).to.equal(DeviceState.starting);
    const rang: number[] = [];
    link.doorbell.take((who) => rang.push(who));
    expect(rang).to.deep.equal([RING_MMIO]);
    for (let bytes = link.toDevice.shift(); bytes; bytes = link.toDevice.shift())
      expect(bytes.every((byte) => byte === 0xee)).to.equal(true);
    for (let bytes = link.fromDevice.shift(); bytes; bytes = link.fromDevice.shift())
      expect(bytes.every((byte) => byte === 0xdd)).to.equal(true);
    const target = new RecordingTarget();
    link.mmioServer().serve(target, MMIO_RING_ENTRIES);
    expect(new Set(target.log)).to.deep.equal(new Set(['w0:-1/8=ffffffffffffffff']));
  });
});
