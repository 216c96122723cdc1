/**
 * Interrupts of a served device: event counters, masks, and the client's own triggers.
 */
import { writeSync } from 'node:fs';
import { expect } from 'chai';
import { after, afterEach, before, beforeEach, describe, it } from 'mocha';
import { enable, eventCount, Served } from '../../fixtures/served-devices.ts';
import { expectErrno } from '../../support/expect-errno.ts';
import { VfioUser, type VfioUserRequests, words } from '../../support/vfio-user-client.ts';

const NONE = 1;
const BOOL = 2;
const EVENTFD = 4;
const MASK = 8;
const UNMASK = 16;
const TRIGGER = 32;
const [INTX, MSI, ERR, REQ] = [0, 1, 3, 4];
/** Time for which a counter that must stay silent is watched. */
const SILENCE_MS = 30;

const raise = (client: VfioUserRequests): void => client.write(0, 0x60, Buffer.from([1, 0, 0, 0]));

describe('vfio-user: interrupts', () => {
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
  /** Sends a command after which all earlier effects have happened. */
  const settle = () => client.read(7, 0, 2);

  it('describes the types', () => {
    const info = (index: number) =>
      client.client.request(VfioUser.GET_IRQ_INFO, words(16, 0, index, 0)).readUInt32LE(12);
    expect([0, 1, 2, 3, 4].map(info)).to.deep.equal([1, 1, 0, 1, 1]);
    const intx = client.client.request(VfioUser.GET_IRQ_INFO, words(16, 0, INTX, 0));
    expect(intx.readUInt32LE(4)).to.equal(7);
    expectErrno(() => client.client.request(VfioUser.GET_IRQ_INFO, words(16, 0, 5, 0)));
    expectErrno(() => client.client.request(VfioUser.GET_IRQ_INFO, words(15, 0, 0, 0)));
  });

  it('signals MSI while its counter is set', () => {
    const event = served.event();
    client.setIrqs(EVENTFD | TRIGGER, MSI, 0, 1, [event]);
    raise(client);
    expect(eventCount(event)).to.equal(1);
    client.setIrqs(EVENTFD | TRIGGER, MSI, 0, 1);
    raise(client);
    settle();
    expect(eventCount(event, SILENCE_MS)).to.equal(0);
    client.setIrqs(EVENTFD | TRIGGER, MSI, 0, 1, [event]);
    client.setIrqs(NONE | TRIGGER, MSI, 0, 0);
    raise(client);
    settle();
    expect(eventCount(event, SILENCE_MS)).to.equal(0);
  });

  it('masks the line with each interrupt, and keeps one pending', () => {
    const event = served.event();
    client.setIrqs(EVENTFD | TRIGGER, INTX, 0, 1, [event]);
    raise(client);
    expect(eventCount(event)).to.equal(1);
    raise(client);
    raise(client);
    settle();
    expect(eventCount(event, SILENCE_MS)).to.equal(0);
    client.setIrqs(NONE | UNMASK, INTX, 0, 1);
    expect(eventCount(event)).to.equal(1);
    client.setIrqs(NONE | UNMASK, INTX, 0, 1);
    client.setIrqs(BOOL | MASK, INTX, 0, 1, [], '\x01');
    raise(client);
    settle();
    expect(eventCount(event, SILENCE_MS)).to.equal(0);
    client.setIrqs(BOOL | UNMASK, INTX, 0, 1, [], '\x01');
    expect(eventCount(event)).to.equal(1);
  });

  it("prefers MSI to the line while MSI's counter is set", () => {
    const [line, msi] = [served.event(), served.event()];
    client.setIrqs(EVENTFD | TRIGGER, INTX, 0, 1, [line]);
    client.setIrqs(EVENTFD | TRIGGER, MSI, 0, 1, [msi]);
    raise(client);
    expect(eventCount(msi)).to.equal(1);
    client.setIrqs(NONE | TRIGGER, MSI, 0, 0);
    raise(client);
    expect(eventCount(line)).to.equal(1);
  });

  it('lets the client trigger interrupts itself', () => {
    for (const index of [MSI, ERR, REQ]) {
      const event = served.event();
      client.setIrqs(EVENTFD | TRIGGER, index, 0, 1, [event]);
      client.setIrqs(NONE | TRIGGER, index, 0, 1);
      expect(eventCount(event)).to.equal(1);
      client.setIrqs(BOOL | TRIGGER, index, 0, 1, [], '\x00');
      settle();
      expect(eventCount(event, SILENCE_MS)).to.equal(0);
      client.setIrqs(BOOL | TRIGGER, index, 0, 1, [], '\x01');
      expect(eventCount(event)).to.equal(1);
    }
  });

  it('refuses requests that the specification does not allow', () => {
    const [event, other] = [served.event(), served.event()];
    const memory = served.memory(4096);
    for (const [flags, index, start, count, fds, data] of [
      [EVENTFD | TRIGGER, 5, 0, 1, [event], ''],
      [EVENTFD | TRIGGER, MSI, 0, 2, [event, other], ''],
      [EVENTFD | TRIGGER, MSI, 1, 1, [event], ''],
      [EVENTFD | TRIGGER, MSI, 0xffff_ffff, 2, [event, other], ''],
      [EVENTFD | TRIGGER, MSI, 0, 1, [event, other], ''],
      [EVENTFD | TRIGGER, MSI, 0, 1, [memory], ''],
      [NONE | TRIGGER, MSI, 0, 1, [event], ''],
      [EVENTFD | MASK, INTX, 0, 1, [event], ''],
      [EVENTFD | NONE | TRIGGER, MSI, 0, 1, [event], ''],
      [TRIGGER | MASK | NONE, MSI, 0, 1, [], ''],
      [NONE, MSI, 0, 1, [], ''],
      [TRIGGER, MSI, 0, 1, [], ''],
      [BOOL | TRIGGER, MSI, 0, 1, [], '\x01\x01'],
      [NONE | MASK, ERR, 0, 1, [], ''],
      [NONE | TRIGGER, MSI, 1, 0, [], ''],
      [NONE | MASK, MSI, 0, 0, [], ''],
      [0x40 | NONE | TRIGGER, MSI, 0, 1, [], ''],
    ] as const)
      expectErrno(() => client.setIrqs(flags, index, start, count, fds, data));
    raise(client);
    settle();
    expect(eventCount(event, SILENCE_MS)).to.equal(0);
  });

  it('does not block on a counter that is full', () => {
    const event = served.event();
    client.setIrqs(EVENTFD | TRIGGER, MSI, 0, 1, [event]);
    writeSync(event, Buffer.from('feffffffffffffff', 'hex'));
    raise(client);
    expect(settle().length).to.equal(2);
  });
});

describe('vfio-user: MSI-X', () => {
  const started: Served[] = [];
  after(async () => {
    for (const served of started) await served.stop();
  });

  /** Returns the capability IDs of a served virtio-rng, read byte by byte and in blocks, and its counts of interrupts. */
  async function capabilities(msix: boolean) {
    const served = await Served.start('virtio-rng', 1, undefined, undefined, { msix });
    started.push(served);
    const client = served.client();
    const space = client.read(7, 0, 256);
    const ids: number[] = [];
    for (let at = client.read(7, 0x34, 1)[0]!; at !== 0; at = client.read(7, at + 1, 1)[0]!) {
      ids.push(client.read(7, at, 1)[0]!);
      expect(client.read(7, at, 2).readUInt16LE()).to.equal(space.readUInt16LE(at));
    }
    const counts = [0, 1, 2].map((index) =>
      client.client.request(VfioUser.GET_IRQ_INFO, words(16, 0, index, 0)).readUInt32LE(12),
    );
    return { ids, counts };
  }

  it('is a capability with a vector for each queue and one for changes', async () => {
    expect(await capabilities(true)).to.deep.equal({ ids: [9, 9, 9, 9, 9, 0x11], counts: [1, 0, 2] });
  });

  it('is hidden on demand', async () => {
    expect(await capabilities(false)).to.deep.equal({ ids: [9, 9, 9, 9, 9], counts: [1, 0, 0] });
  });
});
