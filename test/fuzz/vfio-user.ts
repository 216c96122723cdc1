/**
 * Fuzz cases for the vfio-user server: a client that sends valid, broken and random messages with descriptors of any
 * kind, in pieces of any size, and goes in the middle. A case depends only on the seed and its number.
 */
import { closeSync, ftruncateSync, openSync, readdirSync } from 'node:fs';
import { MODELS } from '../../src/models/index.ts';
import { addSeals, eventFile, memoryFile, SEAL_SHRINK } from '../../src/vfio-user/linux.ts';
import { ConnectionClosedError } from '../../src/vfio-user/message.ts';
import { ServedDevice } from '../../src/vfio-user/served-device.ts';
import { VfioUserServer } from '../../src/vfio-user/server.ts';
import { MemoryTransport } from '../../src/vfio-user/transport.ts';
import { message, quads, versionData, words } from '../support/vfio-user-client.ts';
import { Draw } from './draw.ts';

/** Models that a case may serve. */
const SERVED_MODELS = ['edu', 'testdev', 'mtty', 'vgpu', 'mdpy'] as const;
const CASE_STRIDE = 0x9e37_79b1;
const MESSAGES_MAX = 120;
const PAYLOAD_MAX = 400;
/** Cases that use one device, as a client that reconnects does. */
const CASES_PER_DEVICE = 200;
const STEPS_MAX = 200;

export class VfioUserFuzzer {
  #device: ServedDevice | undefined;
  #cases = 0;

  /** Runs one case. @throws Error for a broken rule */
  async run(seed: number, number: number): Promise<void> {
    const draw = new Draw(Math.imul(seed ^ Math.imul(number, CASE_STRIDE), 3));
    if (this.#cases++ % CASES_PER_DEVICE === 0) this.#replace(draw.one(SERVED_MODELS));
    const device = this.#device!;
    const files = openFiles();
    await converse(device, draw);
    check(device.dma.liveMaps === 0, `${device.dma.liveMaps} maps are live`);
    check(device.instance.dma.heldPins === 0, `${device.instance.dma.heldPins} pins are held`);
    check(device.container.pins() === 0, `${device.container.pins()} pins are in the table`);
    check(device.irqs.assigned === 0, `${device.irqs.assigned} event counters are set`);
    check(device.windows.fileCount === 0, `${device.windows.fileCount} files are open`);
    check(openFiles() === files, `${openFiles()} open files; before ${files}`);
    check(device.violationCount === 0, device.violations.join());
  }

  close(): void {
    this.#device?.close();
    this.#device = undefined;
  }

  #replace(model: string): void {
    this.close();
    this.#device = new ServedDevice({ name: model, model }, MODELS[model]!);
  }
}

const openFiles = (): number => readdirSync('/proc/self/fd').length;

function check(holds: boolean, text: string): void {
  if (!holds) throw new Error(text);
}

/** Plays one connection from its begin to its end. */
async function converse(device: ServedDevice, draw: Draw): Promise<void> {
  const transport = new MemoryTransport(closeSync);
  const server = new VfioUserServer(device, transport, closeSync);
  const files = new ClientFiles(draw);
  try {
    if (draw.chance(95)) transport.feed(message(0, 1, 0, versionData(0, 0, capabilities(draw))));
    for (let left = draw.below(MESSAGES_MAX); left > 0; left--) {
      feed(transport, draw, drawMessage(draw), files.some());
      for (let next = transport.receive(0); next; next = transport.receive(0)) {
        const work = server.handle(next);
        if (work) await work;
        device.wake();
      }
      for (let steps = 0; device.waitUs <= 0 && steps < STEPS_MAX; steps++) device.step();
      answerDma(transport, draw);
    }
  } catch (error) {
    if (!(error instanceof ConnectionClosedError)) throw error;
  }
  checkReplies(transport);
  transport.close();
  await device.disconnected();
  device.windows.clear();
  device.wake();
  for (let steps = 0; device.waitUs <= 0 && steps < STEPS_MAX; steps++) device.step();
  if (draw.chance(30)) device.reset();
}

const capabilities = (draw: Draw): object | undefined =>
  draw.one([undefined, {}, { max_msg_fds: 8, max_data_xfer_size: 64 }, { write_multiple: true }]);

/** Feeds bytes whole or in pieces, with descriptors at one of them. */
function feed(transport: MemoryTransport, draw: Draw, bytes: Buffer, fds: readonly number[]): void {
  const cut = draw.chance(15) ? draw.below(bytes.length) : 0;
  const early = draw.chance(50);
  let left = fds;
  const give = () => {
    const given = left;
    left = [];
    return given;
  };
  try {
    if (cut > 0) transport.feed(bytes.subarray(0, cut), early ? give() : []);
    transport.feed(bytes.subarray(cut), give());
  } finally {
    for (const fd of left) closeSync(fd);
  }
}

/** Descriptors as a receiver gets them: new ones for each message. */
class ClientFiles {
  readonly #draw: Draw;

  constructor(draw: Draw) {
    this.#draw = draw;
  }

  some(): readonly number[] {
    if (this.#draw.chance(60)) return [];
    return Array.from({ length: this.#draw.chance(90) ? 1 : this.#draw.below(12) }, () => this.#one());
  }

  #one(): number {
    const draw = this.#draw;
    if (draw.chance(30)) return eventFile();
    if (draw.chance(10)) return openSync('/dev/null', 'r+');
    const fd = memoryFile('fuzz');
    ftruncateSync(fd, draw.one([0, 1, 4096, 65_536, 2 ** 21]));
    if (draw.chance(70)) addSeals(fd, SEAL_SHRINK);
    return fd;
  }
}

/** Answers the server's DMA messages, rightly, wrongly or not at all. */
function answerDma(transport: MemoryTransport, draw: Draw): void {
  for (const { bytes } of transport.sent.splice(0)) {
    const sent = Buffer.from(bytes);
    const isCommand = (sent.readUInt32LE(8) & 0xf) === 0;
    if (!isCommand) {
      check(sent.readUInt32LE(4) === sent.length, 'a reply with a wrong size');
      continue;
    }
    const [id, command] = [sent.readUInt16LE(0), sent.readUInt16LE(2)];
    const head = sent.subarray(16, 32);
    const count = Number(head.readBigUInt64LE(8));
    const data = command === 11 ? Buffer.alloc(draw.chance(90) ? count : draw.below(100)) : Buffer.alloc(0);
    if (draw.chance(80)) transport.feed(message(id, command, 1, Buffer.concat([head, data])));
    else if (draw.chance(50)) transport.feed(message(id, command, 0x21, Buffer.alloc(0), 22));
  }
}

/** Checks that what is left are whole messages. */
function checkReplies(transport: MemoryTransport): void {
  for (const { bytes } of transport.sent)
    check(Buffer.from(bytes).readUInt32LE(4) === bytes.length, 'a reply with a wrong size');
}

/** Draws one message: mostly a valid header with the payload of a command, or with random bytes. */
function drawMessage(draw: Draw): Buffer {
  const command = draw.chance(95) ? 1 + draw.below(18) : draw.word() & 0xffff;
  const payload = draw.chance(75) ? drawPayload(draw, command) : randomBytes(draw, draw.below(PAYLOAD_MAX));
  if (draw.chance(10) && payload.length > 0) payload[draw.below(payload.length)] = draw.word() & 0xff;
  const bytes = message(
    draw.word() & 0xffff,
    command,
    draw.one([0, 0, 0, 0, 0x10, 1, 2, draw.word()]),
    payload,
  );
  if (draw.chance(1)) bytes.writeUInt32LE(draw.word(), 4);
  return bytes;
}

function randomBytes(draw: Draw, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = draw.word() & 0xff;
  return bytes;
}

/** Addresses close to one another, so that maps meet. */
const near = (draw: Draw): bigint =>
  draw.chance(80) ? BigInt(draw.below(64)) * 4096n : draw.wide() & (draw.chance(50) ? ~0xfffn : ~0n);

function drawPayload(draw: Draw, command: number): Buffer {
  const wide = (value: bigint) => BigInt.asUintN(64, value);
  switch (command) {
    case 1:
      return versionData(draw.below(2), draw.below(3), capabilities(draw));
    case 2:
      return Buffer.concat([
        words(32, draw.chance(90) ? 3 : draw.word()),
        quads(wide(near(draw)), wide(near(draw)), wide(near(draw))),
      ]);
    case 3:
      return draw.chance(20)
        ? Buffer.concat([words(24, 2), quads(0, 0)])
        : Buffer.concat([words(24, 0), quads(wide(near(draw)), wide(near(draw)))]);
    case 5:
      return Buffer.concat([words(draw.one([32, 64, 4096, draw.word()]), 0, draw.below(10), 0), quads(0, 0)]);
    case 8:
      return Buffer.concat([
        words(20, draw.one([36, 33, 34, 9, 17, draw.word()]), draw.below(6), draw.below(3), draw.below(10)),
        randomBytes(draw, draw.chance(50) ? 0 : draw.below(10)),
      ]);
    case 9:
    case 10:
      return drawAccess(draw, command === 10);
    case 15: {
      const writes = draw.below(5);
      const entries = Array.from({ length: writes }, () =>
        Buffer.concat([
          quads(draw.below(0x100)),
          words(draw.below(10), draw.one([1, 2, 4, 8, 9])),
          quads(wide(near(draw))),
        ]),
      );
      return Buffer.concat([quads(writes), ...entries]);
    }
    case 16:
      return drawFeature(draw);
    case 17:
      return words(draw.one([8, 1032, draw.word()]), draw.one([0, 1024, draw.word()]));
    case 18: {
      const data = randomBytes(draw, draw.below(200));
      return Buffer.concat([words(8 + data.length, data.length), data]);
    }
    default:
      return words(draw.one([16, 4096, draw.word()]), 0, draw.below(10), 0);
  }
}

function drawAccess(draw: Draw, isWrite: boolean): Buffer {
  const region = draw.chance(60) ? 0 : draw.below(10);
  const offset =
    region === 7 && draw.chance(60) ? 4n : draw.chance(70) ? BigInt(draw.below(0x110)) : draw.wide();
  const count = draw.one([1, 2, 4, 4, 8, 3, 16, draw.below(300)]);
  const data = isWrite ? (region === 7 ? Buffer.alloc(count, 6) : randomBytes(draw, count)) : Buffer.alloc(0);
  return Buffer.concat([quads(offset), words(region, count), data]);
}

function drawFeature(draw: Draw): Buffer {
  const flags = draw.one([0x10000, 0x20000, 0x40000, 0x70000, draw.word() & ~0xffff]);
  const index = draw.one([1, 2, 6, 7, 8, 3]);
  const data =
    index === 2
      ? words(draw.below(9), 0xffff_ffff)
      : index === 8
        ? quads(draw.below(64) * 4096, draw.below(64) * 4096, draw.one([4096, 8192, 3]))
        : Buffer.concat([quads(4096), words(draw.below(2), 0), quads(0, 65_536)]);
  return Buffer.concat([words(draw.one([16, 40, 4096]), (flags | index) >>> 0), data]);
}
