/**
 * Models that break their contract while they are served: the client gets an answer or the end of its connection, and
 * the other devices notice nothing.
 */
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import { enable, Served } from '../fixtures/served-devices.ts';
import { holdingsOfProcess } from '../support/process-holdings.ts';
import { until } from '../support/until.ts';
import { quads, ReplyError, VfioUser, type VfioUserRequests, words } from '../support/vfio-user-client.ts';

const PAGE = 4096;
/** Time limit of a call of a model in these tests. */
const CALL_MS = 500;

/** Payload of a write to the trigger register. */
const trigger = (value: number): Buffer => Buffer.concat([quads(0), words(0, 4, value)]);

const model = (name: string): string => new URL(`../fixtures/models/${name}.ts`, import.meta.url).href;

describe('a served model that breaks its contract', function () {
  this.timeout(60_000);
  let served: Served;
  afterEach(() => served.stop());
  const start = async (name: string): Promise<VfioUserRequests> => {
    served = await Served.start(model(name), 2, undefined, CALL_MS);
    const client = served.client();
    enable(client);
    return client;
  };
  /** Expects that the second device answers. */
  const expectNeighbour = (id: number) => expect(served.client(1).read(7, 2, 2).readUInt16LE()).to.equal(id);

  /** Waits for the end of the connection. The main thread, which ends workers, must not block meanwhile. */
  const expectClosed = (client: VfioUserRequests) =>
    until(() => client.client.isClosed(1), 'the connection ends', 40_000);

  it('keeps its pins: the unmap is answered, and the device quarantined', async () => {
    const client = await start('keeps-pins');
    client.map(0x1000, PAGE, 0, served.memory(PAGE));
    client.write(0, 0, quads(0x1000));
    expect(client.read(0, 8, 4).readUInt32LE()).to.equal(1);
    client.unmap(0x1000, PAGE);
    expect(client.read(0, 8, 4).readUInt32LE()).to.equal(0xffff_ffff);
    client.map(0x1000, PAGE, 0, served.memory(PAGE));
    expectNeighbour(0xbad1);
    await served.stop();
    expect(served.worker().report!.violations.join()).to.include('never-unpins');
    expect(served.worker(1).report!.violationCount).to.equal(0);
  });

  it('does not return: its worker is ended, and its client gets the end of the connection', async () => {
    const client = await start('misbehaves');
    client.client.post(VfioUser.REGION_WRITE, trigger(2));
    await expectClosed(client);
    await until(() => served.worker().failure !== '', 'the worker has failed');
    expect(served.worker().failure).to.include('stuck-model');
    expectNeighbour(0xbad0);
  });

  it('does not return: what its worker held is freed while the server goes on', async () => {
    // The first worker starts these for good.
    await start('misbehaves');
    await served.stop();
    const before = holdingsOfProcess();
    served = await Served.start(model('misbehaves'), 1, undefined, CALL_MS);
    const client = served.client();
    enable(client);
    const memory = served.memory(16 * PAGE);
    for (const at of [0, 1, 2]) client.map(at * PAGE, PAGE, at * PAGE, memory);
    client.setIrqs(36, 1, 0, 1, [served.event()]);
    const held = holdingsOfProcess();
    expect([held.reservations - before.reservations, held.memoryFiles - before.memoryFiles]).to.deep.equal([
      1, 1,
    ]);
    client.client.post(VfioUser.REGION_WRITE, trigger(2));
    await expectClosed(client);
    served.disconnect();
    const isFreed = () => JSON.stringify(holdingsOfProcess()) === JSON.stringify(before);
    await until(isFreed, 'everything is freed').catch(() => {});
    expect(holdingsOfProcess()).to.deep.equal(before);
  });

  it('throws: the device answers with ones from then on', async () => {
    const client = await start('misbehaves');
    client.write(0, 0, Buffer.from([1, 0, 0, 0]));
    expect(client.read(0, 8, 4).readUInt32LE()).to.equal(0xffff_ffff);
    expectNeighbour(0xbad0);
    await served.stop();
    expect(served.worker().report!.violations.join()).to.include('had a bad day');
  });

  it('throws in a register write: its client loses the connection, and the next one reads ones', async () => {
    const client = await start('dies');
    expect(() => client.write(0, 0, Buffer.from([1, 0, 0, 0]))).to.throw(ReplyError, 'closed');
    expect(served.client().read(0, 4, 4).readUInt32LE()).to.equal(0xffff_ffff);
    expectNeighbour(0xdead);
  });

  it('fills the heap: its worker is ended', async () => {
    const client = await start('misbehaves');
    client.client.post(VfioUser.REGION_WRITE, trigger(3));
    await expectClosed(client);
    expectNeighbour(0xbad0);
  });

  it('answers nonsense: each case is a violation', async () => {
    const client = await start('misbehaves');
    client.write(0, 0, Buffer.from([6, 0, 0, 0]));
    expect(client.read(0, 8, 4).readUInt32LE()).to.equal(0xffff_ffff);
    expectNeighbour(0xbad0);
    await served.stop();
    expect(served.worker().report!.violations.join()).to.include('bad-answer').and.include('bad-dma');
  });
});
