/**
 * `testdev` as the sample client of vfio-user drives it: interrupt at a time, DMA both ways, dirty logging, migration to
 * a second server.
 */
import { closeSync, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, afterEach, before, describe, it } from 'mocha';
import { eventCount, readMemory, Served } from '../../fixtures/served-devices.ts';
import { expectErrno } from '../../support/expect-errno.ts';
import { quads, type VfioUserRequests, words } from '../../support/vfio-user-client.ts';

const PAGE = 4096;
const BAR1_BYTES = 0x3000;
const CHUNK = 1024;
const [RUNNING, STOP_COPY, RESUMING, PRE_COPY, STOP] = [2, 3, 4, 6, 1];
const EVENTFD_TRIGGER = 36;

const seconds = (): number => Math.floor(Date.now() / 1000);

/** The blocks that the device writes: 'A', 'B', 'C', 'D'. */
const BLOCKS = Buffer.concat([0x41, 0x42, 0x43, 0x44].map((byte) => Buffer.alloc(CHUNK, byte)));

/** Maps `count` pages of a file from page `first` on, and answers DMA messages from it. */
function mapPages(client: VfioUserRequests, fd: number, first: number, count: number): Buffer {
  const memory = Buffer.alloc(32 * PAGE);
  client.client.memory = (address, bytes) => memory.subarray(address, address + bytes);
  for (let i = first; i < first + count; i++) client.map(i * PAGE, PAGE, i * PAGE, fd);
  return memory;
}

/** Reads `chunks` chunks of migration data, which must all have data. */
function readChunks(client: VfioUserRequests, chunks: number): Buffer[] {
  return Array.from({ length: chunks }, () => {
    const data = client.migrationRead(CHUNK);
    expect(data.length).to.be.greaterThan(0);
    return data;
  });
}

describe('vfio-user: testdev', () => {
  let served: Served;
  before(async () => {
    served = await Served.start('testdev', 2);
  });
  afterEach(() => served.disconnect());
  after(() => served.stop());

  /** Creates a file on a file system, which cannot be sealed. */
  const file = (): number => {
    const path = join(served.folder, 'ram');
    const fd = openSync(path, 'w+');
    unlinkSync(path);
    ftruncateSync(fd, 32 * PAGE);
    return fd;
  };

  it('interrupts at the time, then moves four blocks each way, directly and by messages', () => {
    const client = served.client();
    expect(client.client.isClosed).to.be.a('function');
    const fd = file();
    const memory = mapPages(client, fd, 0, 16);
    const event = served.event();
    client.setIrqs(EVENTFD_TRIGGER, 0, 0, 1, [event]);
    client.feature(0x2_0006, Buffer.concat([quads(PAGE), words(0, 0)]));
    const time = seconds() + 1;
    client.write(0, 0, quads(time));
    expect(Number(client.read(0, 0, 8).readBigInt64LE())).to.be.within(-1, 1);
    expect(eventCount(event)).to.equal(1);
    expect(Date.now() / 1000).to.be.at.least(time);
    client.client.serveDma(8);
    expect(client.client.dmaMessages).to.deep.equal(
      [true, false].flatMap((write) =>
        [0, 1, 2, 3].map((i) => ({ write, address: i * CHUNK, count: CHUNK })),
      ),
    );
    expect(memory.subarray(0, PAGE)).to.deep.equal(BLOCKS);
    expect(readMemory(fd, PAGE, PAGE)).to.deep.equal(BLOCKS);
    const dirty = Array.from({ length: 16 }, (_, i) =>
      client.feature(0x1_0008, quads(i * PAGE, PAGE, PAGE), 40).readUInt8(32),
    );
    // The first page was written by messages, which the client may log itself.
    expect(dirty).to.deep.equal([1, 1, ...Array(14).fill(0)]);
    client.feature(0x2_0007, Buffer.concat([quads(PAGE), words(0, 0)]));
    for (let i = 0; i < 8; i++) client.unmap(i * PAGE, PAGE);
    client.unmap(0, 0, 2);
    closeSync(fd);
  });

  it('migrates to a second server, which restores BAR 1 and the interrupt', () => {
    const source = served.client(0);
    const time = seconds() + 2;
    source.write(0, 0, quads(time));
    source.write(1, 0, Buffer.alloc(BAR1_BYTES, 1));
    source.setState(PRE_COPY);
    readChunks(source, 12);
    expect(source.migrationRead(CHUNK).length).to.equal(0);
    const bar1 = Buffer.from(Array.from({ length: BAR1_BYTES }, (_, i) => (i * 31) & 0xff));
    source.write(1, 0, bar1);
    source.setState(STOP_COPY);
    const chunks = readChunks(source, 13);
    source.setState(STOP);

    const target = served.client(1);
    target.setState(RESUMING);
    for (const chunk of chunks) target.migrationWrite(chunk);
    target.setState(STOP);
    expect(target.read(1, 0, BAR1_BYTES)).to.deep.equal(bar1);
    const event = served.event();
    target.setIrqs(EVENTFD_TRIGGER, 0, 0, 1, [event]);
    target.setState(RUNNING);
    const fd = file();
    mapPages(target, fd, 8, 8);
    expect(eventCount(event)).to.equal(1);
    expect(Date.now() / 1000).to.be.at.least(time);
    target.client.serveDma(8);
    expect(target.client.dmaMessages[0]).to.deep.equal({ write: true, address: 8 * PAGE, count: CHUNK });
    expect(readMemory(fd, 9 * PAGE, PAGE)).to.deep.equal(BLOCKS);
    target.unmap(0, 0, 2);
    closeSync(fd);
  });

  it('pads each reply with migration data to the size that was asked for', () => {
    const client = served.client();
    client.reset();
    client.setState(STOP_COPY);
    const data = client.migrationRead(BAR1_BYTES);
    expect(data.length).to.equal(BAR1_BYTES);
    const reply = client.client.request(17, words(8 + CHUNK, CHUNK));
    expect([reply.length, reply.readUInt32LE(0), reply.readUInt32LE(4)]).to.deep.equal([8 + CHUNK, 16, 8]);
    client.setState(RUNNING);
  });

  it('follows the states of the migration interface', () => {
    const client = served.client();
    client.reset();
    const state = () => client.feature(0x1_0002, Buffer.alloc(0), 16).readUInt32LE(8);
    expect(client.feature(0x1_0001, Buffer.alloc(0), 16).readBigUInt64LE(8)).to.equal(5n);
    expect(state()).to.equal(RUNNING);
    expectErrno(() => client.migrationRead(CHUNK));
    expectErrno(() => client.setState(0));
    expectErrno(() => client.setState(9));
    client.setState(STOP_COPY);
    expectErrno(() => client.setState(PRE_COPY));
    expectErrno(() => client.migrationWrite(Buffer.alloc(8)));
    client.setState(RESUMING);
    expectErrno(() => client.setState(STOP));
    expect(state()).to.equal(0);
    expectErrno(() => client.setState(RUNNING));
    client.reset();
    expect(state()).to.equal(RUNNING);
  });

  it('tells which features it has', () => {
    const client = served.client();
    for (const flags of [0x5_0001, 0x7_0002, 0x6_0006, 0x6_0007, 0x5_0008])
      expect(client.feature(flags)).to.deep.equal(words(8, flags));
    for (const flags of [0x6_0001, 0x5_0006, 0x3_0002, 0x1_0006, 0x0_0001, 0x8_0001])
      expectErrno(() => client.feature(flags));
    expectErrno(() => client.feature(0x5_0003), 25);
  });
});
