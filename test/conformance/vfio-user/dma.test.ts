/**
 * DMA maps, DMA in place and by messages, and DMA logging, against a client that was written from the specification.
 */
import { closeSync, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, afterEach, before, beforeEach, describe, it } from 'mocha';
import {
  awaitEduDma,
  eduDma,
  enable,
  readMemory,
  Served,
  startEduDma,
  writeMemory,
} from '../../fixtures/served-devices.ts';
import { Errno, expectErrno } from '../../support/expect-errno.ts';
import { quads, VfioUser, type VfioUserRequests, words } from '../../support/vfio-user-client.ts';

const PAGE = 4096;
const MIB = 2 ** 20;
const PATTERN = Buffer.from('the same bytes on both sides');

describe('vfio-user: DMA', () => {
  let served: Served;
  let client: VfioUserRequests;
  before(async () => {
    served = await Served.start('edu');
  });
  beforeEach(() => {
    client = served.client();
    enable(client);
  });
  afterEach(() => served.disconnect());
  after(() => served.stop());

  for (const sealed of [true, false])
    it(`uses ${sealed ? 'a file that cannot shrink in place' : 'any other file by calls'}`, () => {
      const fd = served.memory(4 * MIB, sealed);
      client.map(0x10_0000, 2 * MIB, MIB, fd);
      writeMemory(fd, MIB + 0x2000, PATTERN);
      eduDma(client, false, 0x10_2000, PATTERN.length);
      eduDma(client, true, 0x10_5010, PATTERN.length);
      expect(readMemory(fd, MIB + 0x5010, PATTERN.length)).to.deep.equal(PATTERN);
    });

  it('crosses from one map into the next, in files of both kinds', () => {
    const [first, second] = [served.memory(PAGE), served.memory(PAGE, false)];
    client.map(0, PAGE, 0, first);
    client.map(PAGE, PAGE, 0, second);
    writeMemory(first, PAGE - 10, PATTERN.subarray(0, 10));
    writeMemory(second, 0, PATTERN.subarray(10));
    eduDma(client, false, PAGE - 10, PATTERN.length);
    eduDma(client, true, PAGE - 5, PATTERN.length);
    expect(readMemory(first, PAGE - 5, 5)).to.deep.equal(PATTERN.subarray(0, 5));
    expect(readMemory(second, 0, PATTERN.length - 5)).to.deep.equal(PATTERN.subarray(5));
  });

  it('reaches memory without a descriptor by messages, and serves commands while it waits', () => {
    const memory = Buffer.alloc(PAGE);
    PATTERN.copy(memory, 0x20);
    client.client.memory = (address, count) => memory.subarray(address - 0x8000, address - 0x8000 + count);
    client.map(0x8000, PAGE);
    startEduDma(client, false, 0x8020, PATTERN.length);
    awaitEduDma(client);
    eduDma(client, true, 0x8100, PATTERN.length);
    expect(memory.subarray(0x100, 0x100 + PATTERN.length)).to.deep.equal(PATTERN);
    expect(client.client.dmaMessages).to.deep.equal([
      { write: false, address: 0x8020, count: PATTERN.length },
      { write: true, address: 0x8100, count: PATTERN.length },
    ]);
  });

  it('sends no message beyond the limit of the client, also above 39 bits', () => {
    const base = 2 ** 47;
    const memory = Buffer.alloc(PAGE, 7);
    client.client.memory = (address, count) => memory.subarray(address - base, address - base + count);
    client.map(base, PAGE);
    eduDma(client, false, base + 0x80, 3000);
    expect(client.client.dmaMessages.map(({ count }) => count)).to.deep.equal([1024, 1024, 952]);
    expect(client.client.dmaMessages[0]!.address).to.equal(base + 0x80);
  });

  it('passes a DMA without a map on to the client, whose vIOMMU records the fault', () => {
    eduDma(client, false, 0xdead_0000, 64);
    client.client.serveDma(1);
    expect(client.client.dmaMessages[0]).to.deep.include({ write: false, address: 0xdead_0000 });
  });

  it('refuses a write to a read-only map', () => {
    const fd = served.memory(PAGE);
    client.map(0, PAGE, 0, fd, 1);
    writeMemory(fd, 0, PATTERN);
    eduDma(client, false, 0, PATTERN.length);
    eduDma(client, true, 0x100, PATTERN.length);
    expect(readMemory(fd, 0x100, PATTERN.length)).to.deep.equal(Buffer.alloc(PATTERN.length));
  });

  it('does not touch a page after its unmap', () => {
    const fd = served.memory(2 * PAGE);
    client.map(0, 2 * PAGE, 0, fd);
    eduDma(client, true, 0, 64);
    client.unmap(0, 2 * PAGE);
    writeMemory(fd, 0, PATTERN);
    eduDma(client, true, 0, 64);
    expect(readMemory(fd, 0, PATTERN.length)).to.deep.equal(PATTERN);
  });

  it('accepts an unmap of nothing, of several maps, of everything, and of a range that ends at 2^64', () => {
    const fd = served.memory(16 * PAGE);
    client.unmap(0, 2n ** 47n);
    client.unmap(0xfef0_0000, 0xffff_ffff_0110_0000n);
    for (let i = 0; i < 4; i++) client.map(i * PAGE, PAGE, i * PAGE, fd);
    const request = Buffer.concat([words(24, 0), quads(0, 4 * PAGE)]);
    expect(client.unmap(0, 4 * PAGE)).to.deep.equal(request);
    for (let i = 0; i < 4; i++) client.map(i * PAGE, PAGE, i * PAGE, fd);
    client.map(2 ** 40, PAGE);
    client.unmap(0, 0, 2);
    for (let i = 0; i < 4; i++) client.map(i * PAGE, PAGE, i * PAGE, fd);
    client.map(2 ** 40, PAGE);
  });

  it('refuses maps that overlap, wrap, are unaligned or empty, and unmaps of a part', () => {
    const fd = served.memory(16 * PAGE);
    client.map(4 * PAGE, 4 * PAGE, 0, fd);
    client.map(16 * PAGE, PAGE);
    for (const [address, size] of [
      [4 * PAGE, 4 * PAGE],
      [0, 5 * PAGE],
      [7 * PAGE, PAGE],
      [16 * PAGE, PAGE],
    ] as const) {
      expectErrno(() => client.map(address, size, 0, fd), Errno.EEXIST);
      expectErrno(() => client.map(address, size), Errno.EEXIST);
    }
    for (const [address, size] of [
      [0, 0],
      [1, PAGE],
      [0, PAGE - 1],
      [2n ** 64n - 4096n, 2 * PAGE],
      [2n ** 63n, PAGE],
      [2n ** 48n, PAGE],
    ] as const) {
      expectErrno(() => client.map(address, size, 0, fd));
      expectErrno(() => client.map(address, size));
    }
    expectErrno(() => client.map(0, PAGE, 0, fd, 0));
    expectErrno(() => client.map(0, PAGE, 0, fd, 8));
    for (const [address, size] of [
      [4 * PAGE, PAGE],
      [6 * PAGE, PAGE],
      [0, 0],
      [1, PAGE],
    ] as const)
      expectErrno(() => client.unmap(address, size));
    expectErrno(() => client.unmap(0, PAGE, 2));
    expectErrno(() => client.unmap(0, PAGE, 1));
    client.unmap(4 * PAGE, 4 * PAGE);
  });

  it('refuses maps beyond the file, at an unaligned offset, and without the right to write', () => {
    const fd = served.memory(4 * PAGE);
    expectErrno(() => client.map(0, 8 * PAGE, 0, fd));
    expectErrno(() => client.map(0, PAGE, 4 * PAGE, fd));
    expectErrno(() => client.map(0, PAGE, 100, fd));
    expectErrno(() => client.map(0, PAGE, 2n ** 64n - 4096n, fd));
    const path = join(served.folder, 'ro');
    closeSync(openSync(path, 'w'));
    const file = openSync(path, 'r+');
    ftruncateSync(file, 4 * PAGE);
    closeSync(file);
    const readOnly = openSync(path, 'r');
    unlinkSync(path);
    expectErrno(() => client.map(0, PAGE, 0, readOnly), Errno.EACCES);
    client.map(0, PAGE, 0, readOnly, 1);
    closeSync(readOnly);
    const event = served.event();
    expectErrno(() => client.map(PAGE, PAGE, 0, event));
  });

  it('logs written pages by IOVA, and clears them with the report', () => {
    const fd = served.memory(16 * PAGE);
    client.map(0x1_0000, 16 * PAGE, 0, fd);
    const control = Buffer.concat([quads(PAGE), words(0, 0)]);
    const report = (iova: number, pages: number, pageSize = PAGE) =>
      client.feature(0x1_0008, quads(iova, pages * PAGE, pageSize), 4096).subarray(32);
    expectErrno(() => report(0x1_0000, 16));
    expect(client.feature(0x2_0006, control)).to.deep.equal(Buffer.concat([words(24, 0x2_0006), control]));
    expectErrno(() => client.feature(0x2_0006, control));
    eduDma(client, true, 0x1_3ff0, 32);
    eduDma(client, false, 0x1_5000, 32);
    expect(report(0x1_0000, 16)).to.deep.equal(quads(0b1_1000));
    expect(report(0x1_0000, 16)).to.deep.equal(quads(0));
    eduDma(client, true, 0x1_7000, 32);
    expect(report(0x1_0000, 16, 2 * PAGE)).to.deep.equal(quads(0b1000));
    eduDma(client, true, 0x1_9000, 32);
    client.unmap(0x1_0000, 16 * PAGE);
    expect(report(0x1_0000, 16)).to.deep.equal(quads(1 << 9));
    client.feature(0x2_0007, control);
    expectErrno(() => report(0x1_0000, 16));
  });

  it('logs only the ranges that the client names, and writes by messages', () => {
    const memory = Buffer.alloc(PAGE);
    client.client.memory = (_address, count) => memory.subarray(0, count);
    client.map(0, 16 * PAGE);
    const control = Buffer.concat([quads(PAGE), words(1, 0), quads(0, 8 * PAGE)]);
    client.feature(0x2_0006, control);
    eduDma(client, true, 2 * PAGE, 32);
    eduDma(client, true, 12 * PAGE, 32);
    const reply = client.feature(0x1_0008, quads(0, 16 * PAGE, PAGE), 4096);
    expect(reply.subarray(32)).to.deep.equal(quads(0b100));
    client.feature(0x2_0007, control);
  });

  it('keeps the marks that a short buffer cannot take', () => {
    const fd = served.memory(PAGE);
    client.map(0, PAGE, 0, fd);
    client.feature(0x2_0006, Buffer.concat([quads(PAGE), words(0, 0)]));
    eduDma(client, true, 0, 32);
    const short = client.feature(0x1_0008, quads(0, PAGE, PAGE), 32);
    expect([short.length, short.readUInt32LE(0)]).to.deep.equal([8, 40]);
    expect(client.feature(0x1_0008, quads(0, PAGE, PAGE), 40).subarray(32)).to.deep.equal(quads(1));
  });

  it('removes the maps of a client that has gone', () => {
    const fd = served.memory(PAGE);
    client.map(0, PAGE, 0, fd);
    served.disconnect();
    const next = served.client();
    const other = served.memory(PAGE);
    next.map(0, PAGE, 0, other);
    expect(next.client.request(VfioUser.GET_INFO, words(16, 0, 0, 0)).length).to.equal(16);
  });
});
