import { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DEVICE_DATA_BYTES_MAX } from '../../src/channel/device-link.ts';
import { MMIO_RING_ENTRIES } from '../../src/channel/mmio-channel.ts';
import { MigrationState } from '../../src/device/migration/states.ts';
import { BUFFER_BYTES_LIMIT } from '../../src/device/runtime.ts';
import { decodeFrame, encodeFrame } from '../../src/proto/codec.ts';
import { interposed } from '../fixtures/interleave.ts';
import { HEADER, runtimeRig } from '../fixtures/migrating-runtime.ts';

const { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY } = MigrationState;

describe('device worker during a migration', () => {
  it('transfers its stream to a resuming worker in frames that fit the ring', () => {
    const [source, target] = [runtimeRig(), runtimeRig({}, true)];
    source.model().vram.store(0x10_0000, Buffer.alloc(100_000, 9));
    source.model().level = 17;
    let frames = 0;
    for (const state of [PRE_COPY, STOP_COPY]) {
      expect(source.enter(state)).to.deep.equal({ state, error: '' });
      for (let end = false; !end; frames++) {
        const part = source.read(2 ** 31);
        expect(part.error).to.equal('');
        expect(part.data.length).to.be.at.most(DEVICE_DATA_BYTES_MAX);
        expect(target.write(part.data)).to.deep.equal({ error: '' });
        end = part.end;
      }
    }
    expect(frames).to.be.greaterThan(30);
    expect(target.enter(RUNNING)).to.deep.equal({ state: RUNNING, error: '' });
    const block = new Uint8Array(100_000);
    target.model().vram.readInto(0x10_0000, block);
    expect([target.model().level, block.every((byte) => byte === 9)]).to.deep.equal([17, true]);
  });

  it('reports the remaining bytes of the first pass and the dirty bytes', () => {
    const { enter, read, model } = runtimeRig();
    enter(PRE_COPY);
    expect(read(0)).to.deep.include({ end: false, initialBytes: 0x3_0000, dirtyBytes: 0 });
    while (!read().end);
    model().vram.write(0, 1, 1n);
    expect(read(0)).to.deep.include({ end: false, initialBytes: 0, dirtyBytes: 4096 });
  });

  it('answers an invalid request with the reason, and continues', () => {
    const { enter, read, write } = runtimeRig({ state: null });
    expect(enter(PRE_COPY)).to.deep.equal({
      state: RUNNING,
      error: "cannot be migrated: the model 'gadget' has no `state`",
    });
    expect(read()).to.deep.include({ error: 'has no data to read in RUNNING', end: false });
    expect(write(Uint8Array.of(1))).to.deep.equal({ error: 'takes no data in RUNNING' });
    expect(enter(STOP)).to.deep.equal({ state: STOP, error: '' });
    expect(enter(77).error).to.include('from STOP to 77');
    expect(enter(RESUMING)).to.deep.equal({ state: RESUMING, error: '' });
    expect(write(Uint8Array.of(0)).error).to.include('a record of 0 bytes');
    expect(enter(RUNNING)).to.deep.include({ state: ERROR });
  });

  it('executes writes posted before the stop, and later ones only after it runs again', async () => {
    const { enter, port, model, runtime } = runtimeRig();
    for (let i = 1; i <= MMIO_RING_ENTRIES; i++) port.write(0, 0, 4, BigInt(i));
    expect(enter(STOP_COPY)).to.deep.equal({ state: STOP_COPY, error: '' });
    expect([model().registers.get32('Mode'), model().modeWrites]).to.deep.equal([256, 256]);
    port.write(0, 0, 4, 1000n);
    const later = port.read(0, 0, 4);
    await Promise.resolve();
    for (let turns = 0; turns < 5; turns++) runtime.turn(0);
    expect(model().registers.get32('Mode'), 'while stopped').to.equal(256);
    enter(RUNNING);
    runtime.turn(0);
    expect(await later).to.equal(1000n);
    expect(model().steps).to.be.greaterThan(0);
  });

  it('serves entries that wait in the ring before it sleeps again', async () => {
    const { enter, post, port, model, runtime } = runtimeRig();
    enter(STOP);
    port.write(0, 0, 4, 5n);
    runtime.turn(0);
    post('deviceStateSet', { state: RUNNING });
    let slept = false;
    const sleep = () => {
      slept = true;
    };
    await interposed('wait', sleep, () => {
      for (let turns = 0; turns < 10 && !slept; turns++) runtime.turn(0);
    });
    expect([slept, model().registers.get32('Mode')]).to.deep.equal([true, 5]);
  });

  it('unpins pages and stops in every state', () => {
    for (const state of [STOP, STOP_COPY, PRE_COPY, RESUMING]) {
      const { enter, post, answer, runtime, model } = runtimeRig();
      enter(state);
      post('dmaUnmap', { iova: 0x1000, size: 0x1000 });
      expect(answer('dmaUnmapDone')).to.deep.equal({ iova: 0x1000, size: 0x1000, released: 0 });
      post('deviceStop', {});
      runtime.run(1);
      expect(model().closed).to.equal(true);
    }
  });

  it('keeps an answer while the ring is full, and sends it later', () => {
    const { enter, read, link, post, runtime } = runtimeRig();
    enter(STOP_COPY);
    const expected = runtimeRig();
    expected.enter(STOP_COPY);
    const whole = [expected.read(), expected.read(), expected.read()].map(({ data }) => Buffer.from(data));
    while (link.fromDevice.push(encodeFrame(HEADER, 'deviceLog', { text: 'x'.repeat(80), watchdog: false })));
    for (let i = 0; i < 3; i++) post('deviceDataRead', { maxBytes: DEVICE_DATA_BYTES_MAX });
    for (let turns = 0; turns < 3; turns++) runtime.turn(0);
    const found: Buffer[] = [];
    for (let turns = 0; turns < 20; turns++) {
      for (let bytes = link.fromDevice.shift(); bytes; bytes = link.fromDevice.shift()) {
        const frame = decodeFrame(bytes);
        if (frame.kind === 'deviceData') found.push(Buffer.from(frame.body.data));
      }
      runtime.turn(0);
    }
    expect(found.map((data) => data.toString('hex'))).to.deep.equal(
      whole.map((data) => data.toString('hex')),
    );
    expect(read().error).to.equal('');
  });

  it('keeps requests in their ring while too many answers wait', () => {
    const { link, post, runtime } = runtimeRig();
    while (link.fromDevice.push(encodeFrame(HEADER, 'deviceLog', { text: '', watchdog: false })));
    for (let i = 0; i < 100; i++) post('deviceStateSet', { state: RUNNING });
    for (let turns = 0; turns < 5; turns++) runtime.turn(0);
    let answers = 0;
    for (let turns = 0; turns < 50; turns++) {
      for (let bytes = link.fromDevice.shift(); bytes; bytes = link.fromDevice.shift())
        if (decodeFrame(bytes).kind === 'deviceStateChanged') answers++;
      runtime.turn(0);
    }
    expect(answers).to.equal(100);
  });

  it('may hold any amount of declared memory, and reports the amount', async () => {
    // Each runs in its own thread, because buffers are counted by thread.
    const found = await Promise.all([true, false].map(largeMemory));
    expect(found[0]).to.deep.equal({ memoryBytes: BUFFER_BYTES_LIMIT + 2 ** 16 + 0x3_0000, error: '' });
    expect(found[1]!.error, 'undeclared').to.match(/^DeviceMemoryError: holds \d+ MiB of buffers/);
  });
});

function largeMemory(declared: boolean): Promise<{ readonly memoryBytes: number; readonly error: string }> {
  const worker = new Worker(new URL('../fixtures/large-memory-worker.ts', import.meta.url), {
    workerData: declared,
  });
  return new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
}
