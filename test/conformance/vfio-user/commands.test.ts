/**
 * The server against a client that was written from the specification: negotiation, information, regions.
 */
import { closeSync } from 'node:fs';
import { expect } from 'chai';
import { after, afterEach, before, beforeEach, describe, it } from 'mocha';
import { readMemory, Served } from '../../fixtures/served-devices.ts';
import { Errno, expectErrno } from '../../support/expect-errno.ts';
import {
  message,
  quads,
  VfioUser,
  type VfioUserRequests,
  versionData,
  words,
} from '../../support/vfio-user-client.ts';

describe('vfio-user: version', () => {
  let served: Served;
  before(async () => {
    served = await Served.start('edu');
  });
  afterEach(() => served.disconnect());
  after(() => served.stop());

  it('replies with the same major, and no higher minor version than the client', () => {
    const reply = served.connect().request(VfioUser.VERSION, versionData(0, 0, {}));
    expect([reply.readUInt16LE(0), reply.readUInt16LE(2)]).to.deep.equal([0, 0]);
    expect(reply.at(-1)).to.equal(0);
  });

  it('takes a client without version data, and one of a later minor version', () => {
    served.connect().request(VfioUser.VERSION, versionData(0, 0));
    served.disconnect();
    const reply = served.connect().request(VfioUser.VERSION, versionData(0, 99, {}));
    expect(reply.readUInt16LE(2)).to.be.at.most(1);
  });

  it('offers optional capabilities only to a client that proposes them', () => {
    const capabilities = (proposed: object) => {
      const reply = served.connect().request(VfioUser.VERSION, versionData(0, 0, proposed));
      served.disconnect();
      return JSON.parse(reply.subarray(4, -1).toString()).capabilities;
    };
    const plain = capabilities({});
    expect(plain).to.not.have.any.keys('write_multiple', 'migration', 'twin_socket');
    expect(plain.max_data_xfer_size).to.equal(1048576);
    const wide = capabilities({ write_multiple: true, migration: { pgsize: 4096 }, max_dma_maps: 10 });
    expect(wide).to.include({ write_multiple: true, max_dma_maps: 10 });
  });

  for (const [what, payload] of [
    ['another major version', versionData(1, 0, {})],
    ['a short payload', Buffer.alloc(2)],
    ['data that are not JSON', Buffer.concat([versionData(0, 0), Buffer.from('{\0')])],
    ['data without a NUL', Buffer.concat([versionData(0, 0), Buffer.from('{}')])],
    ['a capability that is no number', versionData(0, 0, { max_msg_fds: 'eight' })],
  ] as const)
    it(`refuses ${what} and closes the connection`, () => {
      const client = served.connect();
      expectErrno(() => client.request(VfioUser.VERSION, payload));
      expect(client.isClosed()).to.equal(true);
    });

  it('refuses every other command before VERSION, and a second VERSION', () => {
    const client = served.connect();
    expectErrno(() => client.request(VfioUser.GET_INFO, words(16, 0, 0, 0)));
    expect(client.isClosed()).to.equal(true);
    served.disconnect();
    const second = served.client();
    expectErrno(() => second.negotiate());
  });
});

describe('vfio-user: information and regions', () => {
  let served: Served;
  let client: VfioUserRequests;
  before(async () => {
    served = await Served.start('testdev');
  });
  beforeEach(() => {
    client = served.client();
  });
  afterEach(() => served.disconnect());
  after(() => served.stop());

  it('describes a PCI device with nine regions and five interrupt types', () => {
    const info = client.client.request(VfioUser.GET_INFO, words(16, 0, 0, 0));
    expect(info).to.deep.equal(words(16, 3, 9, 5));
    expectErrno(() => client.client.request(VfioUser.GET_INFO, words(8, 0, 0, 0)));
    expectErrno(() => client.client.request(VfioUser.GET_INFO, words(16)));
  });

  it('describes each region, and refuses an index without a region', () => {
    const sizes = Array.from({ length: 9 }, (_, index) =>
      Number(client.regionInfo(index).payload.readBigUInt64LE(16)),
    );
    expect(sizes).to.deep.equal([8, 0x3000, 0, 0, 0, 0, 0, 256, 0]);
    for (const index of [9, 0xdeadbeef]) expectErrno(() => client.regionInfo(index));
    expectErrno(() => client.regionInfo(0, 31));
  });

  it('returns the needed size and no part of the capabilities if the buffer is short', () => {
    for (const argsz of [32, 48, 63]) {
      const { payload, fds } = client.regionInfo(1, argsz);
      expect(payload.length).to.equal(32);
      const [needed, flags, capabilities] = [0, 4, 12].map((at) => payload.readUInt32LE(at));
      expect([needed, flags, capabilities]).to.deep.equal([64, 0xf, 32]);
      expect(fds).to.deep.equal([]);
    }
  });

  it('returns the sparse areas and a descriptor of the region if the buffer is large enough', () => {
    client.write(1, 0x10, Buffer.from('mapped'));
    const { payload, fds } = client.regionInfo(1, 64);
    expect(payload.length).to.equal(64);
    expect(payload.subarray(32, 48)).to.deep.equal(words(0x1_0001, 0, 1, 0));
    expect(payload.subarray(48)).to.deep.equal(quads(0, 0x1000));
    expect(fds.length).to.equal(1);
    expect(readMemory(fds[0]!, 0x10, 6).toString()).to.equal('mapped');
    closeSync(fds[0]!);
  });

  it('has no descriptors for parts of a region', () => {
    const reply = client.client.request(VfioUser.GET_REGION_IO_FDS, words(16, 0, 0, 0));
    expect(reply).to.deep.equal(words(16, 0, 0, 0));
    expectErrno(() => client.client.request(VfioUser.GET_REGION_IO_FDS, words(16, 0, 99, 0)));
  });

  it('reads and writes regions with any count', () => {
    expect(client.read(7, 0, 64).readUInt32LE(0)).to.equal(0xbeef_dead);
    expect(client.read(7, 0x2c, 4).readUInt32LE()).to.equal(0xbabe_cafe);
    const data = Buffer.from(Array.from({ length: 0x3000 }, (_, i) => (i * 7) & 0xff));
    client.write(1, 0, data);
    expect(client.read(1, 0, 0x3000)).to.deep.equal(data);
    expect(client.read(1, 0x101, 13)).to.deep.equal(data.subarray(0x101, 0x10e));
  });

  it('echoes offset, region and count in the replies', () => {
    const head = Buffer.concat([quads(0x20), words(1, 4)]);
    expect(client.client.request(VfioUser.REGION_READ, head).subarray(0, 16)).to.deep.equal(head);
    const written = client.client.request(VfioUser.REGION_WRITE, Buffer.concat([head, words(1)]));
    expect(written).to.deep.equal(head);
  });

  it('refuses accesses outside a region, to an absent region, and with another length than announced', () => {
    expectErrno(() => client.read(0xdeadbeef, 0, 4));
    expectErrno(() => client.read(9, 0, 4));
    expectErrno(() => client.read(3, 0, 4));
    expectErrno(() => client.read(1, 0x2ffd, 4));
    expectErrno(() => client.read(1, 2n ** 64n - 2n, 4));
    expectErrno(() => client.read(1, 0, 0));
    expectErrno(() => client.write(7, 255, Buffer.alloc(2)));
    const short = Buffer.concat([quads(0), words(1, 8), Buffer.alloc(4)]);
    expectErrno(() => client.client.request(VfioUser.REGION_WRITE, short));
  });

  it('performs several writes of one message', () => {
    const one = (offset: number, count: number, value: number) =>
      Buffer.concat([quads(offset), words(1, count), quads(value)]);
    const payload = Buffer.concat([quads(3), one(0, 4, 0x11223344), one(8, 1, 0xee), one(16, 8, 0x55667788)]);
    expect(client.client.request(VfioUser.REGION_WRITE_MULTI, payload)).to.deep.equal(quads(3));
    expect(client.read(1, 0, 4).readUInt32LE()).to.equal(0x11223344);
    expect(client.read(1, 8, 1)[0]).to.equal(0xee);
    expect(client.read(1, 16, 8).readBigUInt64LE()).to.equal(0x55667788n);
    expectErrno(() => client.client.request(VfioUser.REGION_WRITE_MULTI, payload.subarray(0, -1)));
    const long = Buffer.concat([quads(1), one(0, 9, 0)]);
    expectErrno(() => client.client.request(VfioUser.REGION_WRITE_MULTI, long));
  });

  it('does not answer a command with the flag No_reply, also if it fails', () => {
    client.client.post(VfioUser.REGION_WRITE, Buffer.concat([quads(0x40), words(1, 4, 0xabcd)]));
    client.client.post(VfioUser.REGION_WRITE, Buffer.concat([quads(0x40), words(77, 4, 0xabcd)]));
    expect(client.read(1, 0x40, 4).readUInt32LE()).to.equal(0xabcd);
  });

  it('refuses unknown commands and message types, and serves the next command', () => {
    for (const command of [0, 14, 19, 0xffff])
      expectErrno(() => client.client.request(command, Buffer.alloc(0)));
    client.client.wire.send(message(9, VfioUser.GET_INFO, 2, words(16, 0, 0, 0)));
    expect(client.client.next(20_000)?.error).to.equal(Errno.EINVAL);
    expect(client.read(7, 0, 2).readUInt16LE()).to.equal(0xdead);
  });

  it('resets the device', () => {
    client.write(1, 0, Buffer.from('before'));
    client.reset();
    expect(client.read(1, 0, 6)).to.deep.equal(Buffer.alloc(6));
  });
});
