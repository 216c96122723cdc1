/**
 * Harnesses of the channels between threads: doorbells, frame rings, the MMIO link, requests between devices.
 */
import { Doorbell, doorbellWords } from '../../channel/doorbell.ts';
import { FrameRing, frameRingBytes } from '../../channel/frame-ring.ts';
import { MMIO_CHANNEL_BYTES, MmioPort, MmioServer, type MmioTarget } from '../../channel/mmio-channel.ts';
import { PEER_BLOCK_BYTES, PeerBlock } from '../../channel/peer-block.ts';
import { add, ensure, explore, type Harness, peek, poke, type SharedWords, wordsOf, xchg } from '../sdk.ts';

/** Limit of a wait; the model ends none by it. */
const WAIT_MS = 1000;

const doorbellOf = (senders: number): Doorbell =>
  new Doorbell(new SharedArrayBuffer(doorbellWords(senders) * 4), 0, senders);

/** Waits for rings and serves them, until `serve` returns true. */
function serveRings(doorbell: Doorbell, serve: (sender: number) => boolean): void {
  let done = false;
  while (!done) {
    const sequence = doorbell.sequence;
    doorbell.take((sender) => {
      done = serve(sender) || done;
    });
    if (!done) doorbell.wait(sequence, WAIT_MS);
  }
}

interface Bells {
  readonly doorbell: Doorbell;
  /** Messages that wait, by sender. */
  readonly mail: SharedWords;
}

const MESSAGES = 2;

/** Posts messages, one word each, and rings for each. */
function post({ doorbell, mail }: Bells, sender: number): void {
  for (let i = 0; i < MESSAGES; i++) {
    add(mail, sender, 1, 'mail.post');
    doorbell.ring(sender);
  }
}

/** Two senders on one doorbell: each message is served, and no ring is lost. */
export const doorbell: Harness<Bells> = explore({
  name: 'doorbell',
  setup: () => ({ doorbell: doorbellOf(2), mail: wordsOf(new SharedArrayBuffer(8)) }),
  threads: {
    waiter: ({ doorbell, mail }) => {
      let left = 2 * MESSAGES;
      serveRings(doorbell, (sender) => {
        left -= xchg(mail, sender, 0, 'mail.take');
        return left === 0;
      });
    },
    sender0: (bells) => post(bells, 0),
    sender1: (bells) => post(bells, 1),
  },
});

const RING_BYTES = 32;
const FRAMES = [5, 12, 3, 9];

interface Ring {
  readonly ring: FrameRing;
  readonly filled: Doorbell;
  readonly emptied: Doorbell;
}

const frameOf = (index: number): Uint8Array =>
  Uint8Array.from({ length: FRAMES[index] as number }, (_, at) => 16 * (index + 1) + at);

/** Frames of different lengths through a ring that holds about two of them, and wraps. */
export const frameRing: Harness<Ring> = explore({
  name: 'frame-ring',
  setup: () => ({
    ring: new FrameRing(new SharedArrayBuffer(frameRingBytes(RING_BYTES)), 0, RING_BYTES),
    filled: doorbellOf(1),
    emptied: doorbellOf(1),
  }),
  threads: {
    producer: ({ ring, filled, emptied }) => {
      for (let i = 0; i < FRAMES.length; i++) {
        for (;;) {
          const sequence = emptied.sequence;
          if (ring.push(frameOf(i))) break;
          emptied.wait(sequence, WAIT_MS);
        }
        filled.ring(0);
      }
    },
    consumer: ({ ring, filled, emptied }) => {
      for (let i = 0; i < FRAMES.length; ) {
        const sequence = filled.sequence;
        const frame = ring.shift();
        if (frame === undefined) {
          filled.wait(sequence, WAIT_MS);
          continue;
        }
        const [found, sent] = [Buffer.from(frame).toString('hex'), Buffer.from(frameOf(i)).toString('hex')];
        ensure(found === sent, 'FIFO', `frame ${i} is ${found} instead of ${sent}`);
        i++;
        emptied.ring(0);
      }
    },
  },
});

interface Mmio {
  readonly port: MmioPort;
  readonly server: MmioServer;
  readonly doorbell: Doorbell;
  /** Words of the device: a register, count of its accesses, and 1 after the end. */
  readonly device: SharedWords;
}

function mmioLink(): Mmio {
  const sab = new SharedArrayBuffer(MMIO_CHANNEL_BYTES);
  const doorbell = doorbellOf(1);
  return {
    doorbell,
    port: new MmioPort(sab, 0, () => doorbell.ring(0)),
    server: new MmioServer(sab, 0),
    device: wordsOf(new SharedArrayBuffer(16)),
  };
}

const REGISTER = 0;
const SERVED = 1;

/** Returns a device of one register, which checks the order of the writes. */
const registerOf = (device: SharedWords): MmioTarget => ({
  read: () => {
    poke(device, SERVED, peek(device, SERVED) + 1);
    return BigInt(peek(device, REGISTER));
  },
  write: (_region, _offset, _size, value) => {
    const before = peek(device, REGISTER);
    ensure(Number(value) === before + 1, 'FIFO', `write of ${value} after ${before}`);
    poke(device, REGISTER, Number(value));
    poke(device, SERVED, peek(device, SERVED) + 1);
  },
});

const MMIO_ACCESSES = 5;

async function driveRegister({ port }: Mmio): Promise<void> {
  await port.write(0, 0, 4, 1n);
  await port.write(0, 0, 4, 2n);
  const found = await port.read(0, 0, 4);
  ensure(found === 2n, 'FIFO', `a read behind the write of 2 returns ${found}`);
  await port.write(0, 0, 4, 3n);
  const last = await port.read(0, 0, 4);
  ensure(last === 3n, 'FIFO', `a read behind the write of 3 returns ${last}`);
}

function serveRegister({ server, doorbell, device }: Mmio): void {
  const target = registerOf(device);
  for (;;) {
    const sequence = doorbell.sequence;
    doorbell.take(() => {});
    while (server.serve(target, 1));
    if (peek(device, SERVED) >= MMIO_ACCESSES) return;
    doorbell.wait(sequence, WAIT_MS);
  }
}

/** A guest that writes and reads a register of a device. */
export const mmio: Harness<Mmio> = explore({
  name: 'mmio',
  setup: mmioLink,
  threads: { guest: driveRegister, device: serveRegister },
});

const ONES = 0xffff_ffffn;

/** A device that ends while its guest reads: the read returns, with the register or with all ones. */
export const mmioClose: Harness<Mmio> = explore({
  name: 'mmio-close',
  setup: mmioLink,
  threads: {
    guest: async ({ port }) => {
      await port.write(0, 0, 4, 1n);
      const found = await port.read(0, 0, 4);
      ensure(found === 1n || found === ONES, 'every byte', `a read returns ${found.toString(16)}`);
    },
    device: ({ server, device }) => {
      server.serve(registerOf(device), 1);
      server.close();
    },
  },
});

interface Peers {
  readonly block: PeerBlock;
  readonly memory: SharedWords;
}

const TARGET = 1;
const ANSWER = 0x5a;

/** A request that its requester may take back while the target begins to serve it. */
export const peers: Harness<Peers> = explore({
  name: 'peers',
  setup: () => ({
    block: new PeerBlock(new SharedArrayBuffer(PEER_BLOCK_BYTES), 0),
    memory: wordsOf(new SharedArrayBuffer(16)),
  }),
  threads: {
    requester: ({ block, memory }) => {
      const request = { isWrite: false, address: 0x1000, bytes: new Uint8Array(8) };
      block.post(TARGET, request);
      const events = block.events;
      const outcome = block.answer(request);
      if (outcome === undefined && block.withdraw(TARGET)) {
        poke(memory, 1, 1);
        return;
      }
      for (let at = events, answered = outcome; answered === undefined; ) {
        block.waitEvents(at, WAIT_MS);
        at = block.events;
        answered = block.answer(request);
      }
      const whole = request.bytes.every((byte) => byte === ANSWER);
      ensure(whole, 'every byte', `the answer is ${Buffer.from(request.bytes).toString('hex')}`);
    },
    target: ({ block, memory }) => {
      const request = block.take(TARGET);
      if (!request) return;
      poke(memory, 0, 1);
      request.bytes.fill(ANSWER);
      block.reply(true, request);
    },
    late: ({ block, memory }) => {
      const request = block.take(TARGET);
      if (!request) return;
      ensure(peek(memory, 0) === 0, 'served once', 'a request is taken twice');
      poke(memory, 0, 1);
      request.bytes.fill(ANSWER);
      block.reply(true, request);
    },
  },
  timeouts: true,
  check: ({ memory }) => {
    ensure(peek(memory, 0) + peek(memory, 1) <= 1, 'served once', 'a request is served and taken back');
  },
});
