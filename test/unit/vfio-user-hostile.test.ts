/**
 * A client that sends what no VMM sends. The result is an error reply or a closed connection, never a crash, a leak or an
 * effect on another device.
 */
import { closeSync, ftruncateSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, afterEach, before, describe, it } from 'mocha';
import { GUEST_FILES_LIMIT } from '../../src/vfio-user/guest-windows.ts';
import { connectTo, MessageSocket, waitReadable } from '../../src/vfio-user/linux.ts';
import { SocketListener, SocketPathError } from '../../src/vfio-user/socket.ts';
import {
  awaitEduDma,
  eduDma,
  enable,
  readMemory,
  Served,
  startEduDma,
  writeMemory,
} from '../fixtures/served-devices.ts';
import { Errno, expectErrno } from '../support/expect-errno.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { until } from '../support/until.ts';
import { message, quads, VfioUser, type VfioUserRequests, words } from '../support/vfio-user-client.ts';

const PAGE = 4096;
const GET_INFO = message(1, VfioUser.GET_INFO, 0, words(16, 0, 0, 0));

const openFiles = (): number => readdirSync('/proc/self/fd').length;
const memoryMaps = (): number => readFileSync('/proc/self/maps', 'utf8').split('\n').length;

describe('a hostile vfio-user client', () => {
  let served: Served;
  before(async () => {
    served = await Served.start('edu', 2);
  });
  afterEach(() => served.disconnect());
  after(async () => {
    await served.stop();
    for (const index of [0, 1]) expect(served.worker(index).failure).to.equal('');
  });
  const id = (client: VfioUserRequests) => client.read(0, 0, 4).readUInt32LE();

  it('may send messages byte by byte, or many at once', () => {
    const client = served.client();
    for (const byte of GET_INFO) client.client.wire.send(Buffer.from([byte]));
    expect(client.client.next(20_000)?.payload.length).to.equal(16);
    client.client.wire.send(Buffer.concat([GET_INFO, GET_INFO, GET_INFO.subarray(0, 20)]));
    client.client.wire.send(GET_INFO.subarray(20));
    for (let i = 0; i < 3; i++) expect(client.client.next(20_000)?.id).to.equal(1);
  });

  for (const size of [0, 15, 2 ** 20 + 5000, 0xffff_ffff])
    it(`loses its connection with a message of ${size} bytes`, () => {
      const client = served.client();
      const bytes = Buffer.from(GET_INFO);
      bytes.writeUInt32LE(size, 4);
      client.client.wire.send(bytes);
      expect(client.client.isClosed()).to.equal(true);
      served.disconnect();
      expect(id(served.client())).to.equal(0x0100_00ed);
    });

  it('may send payloads of any length for any command', () => {
    const client = served.client();
    for (let command = 2; command < 20; command++)
      for (const length of [0, 1, 7, 8, 15, 16, 20, 31, 32, 64, 300]) {
        if (command === VfioUser.DEVICE_RESET) continue;
        for (const byte of [0, 0xff]) {
          client.client.send(command, Buffer.alloc(length, byte));
          expect(client.client.next(20_000)?.command).to.equal(command);
        }
      }
    expect(id(client)).to.equal(0x0100_00ed);
  });

  it('may send replies that nobody has asked for', () => {
    const client = served.client();
    for (const command of [VfioUser.REGION_READ, 11, 12, 99])
      client.client.wire.send(message(5, command, 1, Buffer.alloc(40)));
    expect(id(client)).to.equal(0x0100_00ed);
  });

  it('makes a DMA fail with an answer of the wrong length, and with an error', () => {
    const client = served.client();
    enable(client);
    client.map(0, PAGE);
    client.client.memory = () => Buffer.alloc(3);
    eduDma(client, false, 0, 64);
    client.client.memory = undefined;
    eduDma(client, false, 0, 64);
    expect(id(client)).to.equal(0x0100_00ed);
  });

  it('may go while a DMA waits for its answer', () => {
    const client = served.client();
    enable(client);
    client.map(0, PAGE);
    startEduDma(client, false, 0, 64);
    served.disconnect();
    const next = served.client();
    awaitEduDma(next);
  });

  it('leaves no descriptor and no memory map behind, wherever it goes', async () => {
    const round = (): void => {
      const fd = served.memory(4 * 2 ** 20);
      const client = served.client();
      enable(client);
      client.map(0, 2 ** 20, 0, fd);
      client.map(2 ** 30, PAGE, 0, served.memory(PAGE, false));
      client.setIrqs(36, 0, 0, 1, [served.event()]);
      eduDma(client, true, 0, 64);
      const map = Buffer.concat([words(32, 3), quads(0, 0x80_0000, PAGE)]);
      client.client.wire.send(message(1, VfioUser.DMA_MAP, 0, map).subarray(0, 20), [fd, fd, fd]);
      served.disconnect();
      served.client();
      served.disconnect();
    };
    for (let i = 0; i < 3; i++) round();
    const [files, maps] = [openFiles(), memoryMaps()];
    for (let i = 0; i < 20; i++) round();
    served.client();
    served.disconnect();
    await until(() => openFiles() <= files + 1, 'the descriptors are closed');
    // The heaps of the threads may grow by a few maps; each round would leave one or more.
    expect(memoryMaps()).to.be.below(maps + 20);
  });

  it('may send descriptors with any command, more than allowed, and of any kind', async () => {
    const client = served.client();
    const event = served.event();
    const memory = served.memory(PAGE);
    const before = openFiles();
    for (const command of [VfioUser.GET_INFO, VfioUser.REGION_READ, VfioUser.DMA_MAP, VfioUser.SET_IRQS])
      for (const count of [1, 2, 8, 9, 60]) {
        client.client.send(command, Buffer.alloc(64), Array(count).fill(count % 2 === 0 ? event : memory));
        expect(client.client.next(20_000)?.command).to.equal(command);
      }
    const map = Buffer.concat([words(32, 3), quads(0, 0, PAGE)]);
    expectErrno(() => client.client.request(VfioUser.DMA_MAP, map, [memory, memory]));
    id(client);
    await until(() => openFiles() <= before, 'the descriptors are closed');
  });

  it('may shrink its memory below a map: accesses are lost, and nothing else', () => {
    const client = served.client();
    enable(client);
    const fd = served.memory(16 * PAGE, false);
    client.map(0, 16 * PAGE, 0, fd);
    eduDma(client, true, 8 * PAGE, 64);
    ftruncateSync(fd, PAGE);
    for (const toGuest of [true, false]) eduDma(client, toGuest, 8 * PAGE, 64);
    expect(readMemory(fd, 0, 2 * PAGE).length).to.equal(2 * PAGE);
    ftruncateSync(fd, 16 * PAGE);
    writeMemory(fd, 8 * PAGE, Buffer.from('again'));
    eduDma(client, false, 8 * PAGE, 5);
    eduDma(client, true, 0, 5);
    expect(readMemory(fd, 0, 5).toString()).to.equal('again');
    expect(id(served.client(1))).to.equal(0x0100_00ed);
  });

  it('gets an error beyond the limit of files, and room again after an unmap', () => {
    const client = served.client();
    for (let i = 0; i < GUEST_FILES_LIMIT; i++) client.map(i * PAGE, PAGE, 0, served.memory(PAGE));
    const one = served.memory(PAGE);
    expectErrno(() => client.map(2 ** 30, PAGE, 0, one), Errno.ENOSPC);
    client.unmap(0, PAGE);
    client.map(2 ** 30, PAGE, 0, one);
  });

  it('may flood the device with posted writes', () => {
    const client = served.client();
    const write = message(1, VfioUser.REGION_WRITE, 0x10, Buffer.concat([quads(4), words(0, 4, 0x1234)]));
    const flood = Buffer.concat(Array(500).fill(write));
    for (let i = 0; i < 20; i++) client.client.wire.send(flood);
    expect(client.read(0, 4, 4).readInt32LE()).to.equal(~0x1234);
  });

  it('loses its connection if it does not read, and another device does not notice', function () {
    this.timeout(60_000);
    const fd = connectTo(served.worker(0).socket);
    const socket = new MessageSocket(fd, 1000);
    const neighbour = served.client(1);
    const version = message(1, VfioUser.VERSION, 0, Buffer.alloc(4));
    socket.send(version, 0, []);
    const read = message(2, VfioUser.REGION_READ, 0, Buffer.concat([quads(0), words(7, 256)]));
    const flood = Buffer.concat(Array(200).fill(read));
    const deadline = performance.now() + 40_000;
    let isClosed = false;
    while (!isClosed && performance.now() < deadline) {
      try {
        if (socket.send(flood, 0, []) === 0) waitReadable([], 50);
      } catch {
        isClosed = true;
      }
      expect(id(neighbour)).to.equal(0x0100_00ed);
    }
    expect(isClosed).to.equal(true);
    closeSync(fd);
    socket.free();
    expect(id(served.client(0))).to.equal(0x0100_00ed);
  });
});

describe('the socket of a served device', () => {
  const folder = temporaryFolder();

  it('belongs to its user alone, in a new directory too', () => {
    const path = join(folder(), 'new', 'deep', 's');
    const listener = new SocketListener(path);
    const mode = (file: string) => statSync(file).mode & 0o777;
    expect([mode(path), mode(join(folder(), 'new'))]).to.deep.equal([0o600, 0o700]);
    listener.close();
    expect(readdirSync(join(folder(), 'new', 'deep'))).to.deep.equal([]);
  });

  it('replaces a dead server, but no living one, and no file', () => {
    const path = join(folder(), 's');
    const first = new SocketListener(path);
    expect(() => new SocketListener(path)).to.throw(SocketPathError, 'in use');
    closeSync(first.fd);
    new SocketListener(path).close();
    writeFileSync(path, 'a file');
    expect(() => new SocketListener(path)).to.throw(SocketPathError, 'exists');
    expect(() => new SocketListener(join(folder(), 'x'.repeat(120)))).to.throw(SocketPathError, '107');
  });
});
