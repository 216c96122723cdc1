/**
 * The connections of a migration, and their limits: requests to a device, frames between two hosts, and the host
 * socket.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { sleep } from '#host';
import { FrameSocket } from '../../src/channel/frame-socket.ts';
import { DeviceControl } from '../../src/coordinator/vm/device-control.ts';
import { ARRIVALS_LIMIT, HostSocket } from '../../src/coordinator/vm/migration/host-socket.ts';
import { Incoming, STATE_BYTES_LIMIT } from '../../src/coordinator/vm/migration/incoming.ts';
import { encodeFrame, FRAME_BYTES_LIMIT, type Frame } from '../../src/proto/codec.ts';
import { lengthPrefix } from '../../src/proto/delimited.ts';
import { until } from '../support/until.ts';

const header = (device: number) => ({ timeUs: 0, process: 0, vm: 0, device });
const owner = { header };

/** Returns `resolved` or the message of the rejection. */
const outcomeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'resolved',
    (error: Error) => error.message,
  );

async function withFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'mdevsim-links-'));
  try {
    await test(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Runs `test` with both ends of a connection: a frame socket, and the raw socket. */
const withPair = (test: (frames: FrameSocket, raw: Socket) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.sock');
    const server = createServer();
    await new Promise<void>((resolve) => {
      server.listen(path, resolve);
    });
    const accepted = new Promise<Socket>((resolve) => {
      server.once('connection', resolve);
    });
    const raw = connect(path).on('error', () => {});
    const frames = new FrameSocket(await accepted, owner);
    await test(frames, raw);
    frames.close();
    raw.destroy();
    server.close();
  });

const delimitedFrame = (frame: Uint8Array) => Buffer.concat([lengthPrefix(frame.length), frame]);

describe('frames over a socket', () => {
  it('arrive complete for any split of the bytes', () =>
    withPair(async (frames, raw) => {
      const bytes = delimitedFrame(encodeFrame(header(3), 'deviceDataRead', { maxBytes: 77 }));
      for (const byte of bytes) raw.write(Uint8Array.of(byte));
      const { kind, body, header: got } = await frames.next();
      expect([kind, body, got.device]).to.deep.equal(['deviceDataRead', { maxBytes: 77 }, 3]);
    }));

  it('fail on silence, on the end of the connection, and on an end inside a frame', async () => {
    await withPair(async (frames) => {
      expect(await outcomeOf(frames.next(20))).to.equal('the other host has sent nothing for 20 ms');
    });
    await withPair(async (frames, raw) => {
      raw.end();
      expect(await outcomeOf(frames.next())).to.equal('the other host has gone');
    });
    await withPair(async (frames, raw) => {
      raw.end(lengthPrefix(100));
      expect(await outcomeOf(frames.next())).to.equal('the other host ended inside a frame, at offset 0');
    });
  });

  it('have a size limit', () =>
    withPair(async (frames, raw) => {
      raw.write(lengthPrefix(FRAME_BYTES_LIMIT + 1));
      expect(await outcomeOf(frames.next())).to.match(/frame of \d+ bytes at offset 0; accepted: up to \d+/);
    }));
});

describe('requests to a device', () => {
  /** Also the time that a busy machine has for the answers that are not late. */
  const LIMIT_MS = 1000;
  const changed = (state: number): Frame => ({
    header: header(0),
    kind: 'deviceStateChanged',
    body: { state, error: state === 0 ? 'cannot' : '' },
  });

  it('are answered in order', async () => {
    const sent: unknown[] = [];
    const control = new DeviceControl({ name: 'dev', send: (_, body) => sent.push(body) > 0 });
    const [first, second] = [outcomeOf(control.setState(1)), outcomeOf(control.setState(2))];
    await Promise.resolve();
    expect(sent).to.deep.equal([{ state: 1 }]);
    control.answered(changed(0));
    expect(await first).to.equal('dev: cannot');
    control.answered(changed(2));
    expect(await second).to.equal('resolved');
  });

  it('time out, and ignore a late answer', async () => {
    const control = new DeviceControl({ name: 'dev', send: () => true }, LIMIT_MS);
    expect(await outcomeOf(control.setState(6))).to.equal(
      `dev is lost: no answer to deviceStateSet within ${LIMIT_MS} ms`,
    );
    let ended = '';
    const next = outcomeOf(control.setState(2)).then((end) => {
      ended = end;
    });
    await new Promise(setImmediate);
    control.answered(changed(6));
    await new Promise(setImmediate);
    expect(ended).to.equal('');
    control.answered(changed(2));
    await next;
    expect(ended).to.equal('resolved');
  });

  it('fail when the ring is full and when the device ends', async () => {
    const full = new DeviceControl({ name: 'dev', send: () => false });
    expect(await outcomeOf(full.read(1))).to.match(/its control ring has no room for deviceDataRead/);
    const control = new DeviceControl({ name: 'dev', send: () => true });
    const waiting = outcomeOf(control.write(new Uint8Array(1)));
    await new Promise(setImmediate);
    control.lost('its thread has ended');
    expect(await waiting).to.equal('dev is lost: its thread has ended');
    expect(await outcomeOf(control.setState(1)), 'a later request').to.equal(
      'dev is lost: its thread has ended',
    );
  });
});

describe('host that receives VMs', () => {
  it('accepts a limited count of arrivals at once, and refuses the next with the reason', () =>
    withFolder(async (folder) => {
      const host = new HostSocket(0, [join(folder, '0.sock')]);
      let release = () => {};
      const held = new Promise<void>((resolve) => {
        release = resolve;
      });
      let served = 0;
      await host.listen({
        ...owner,
        serve: (stream) => {
          served++;
          return held.finally(() => stream.close());
        },
        failed: () => {},
      });
      const sources = [];
      for (let i = 0; i <= ARRIVALS_LIMIT; i++) sources.push(await host.connect(0, owner));
      const frame = await (sources.at(-1) as FrameSocket).next();
      expect(frame.kind === 'migrationFailed' && frame.body.reason).to.match(/64 VMs are arriving already/);
      expect(served).to.equal(ARRIVALS_LIMIT);
      release();
      for (const source of sources) source.close();
      host.close();
    }));

  it('is reached as soon as it listens, within a time limit', () =>
    withFolder(async (folder) => {
      const sockets = [join(folder, '0.sock')];
      const served: FrameSocket[] = [];
      const host = new HostSocket(0, sockets);
      const connecting = new HostSocket(0, sockets).connect(0, owner);
      await sleep(120);
      await host.listen({ ...owner, serve: async (stream) => void served.push(stream), failed: () => {} });
      const source = await connecting;
      await until(() => served.length === 1, 'the connection');
      for (const stream of [source, ...served]) stream.close();
      host.close();
      const nowhere = new HostSocket(0, [join(folder, 'nowhere.sock')], 100);
      expect(await outcomeOf(nowhere.connect(0, owner))).to.match(
        /^host 0: connect ENOENT .*nowhere.sock, tried for 100 ms$/,
      );
      expect(await outcomeOf(new HostSocket(0, ['/nowhere']).connect(0, owner, () => false))).to.match(
        /^host 0: connect ENOENT \/nowhere$/,
      );
    }));

  it('continues after a connection whose service throws', () =>
    withFolder(async (folder) => {
      const host = new HostSocket(0, [join(folder, '0.sock')]);
      const failures: string[] = [];
      let served = 0;
      await host.listen({
        ...owner,
        serve: (stream) => {
          stream.close();
          return ++served === 1 ? Promise.reject(new Error('cannot discard')) : Promise.resolve();
        },
        failed: ({ message }) => failures.push(message),
      });
      for (let i = 1; i <= 2; i++) {
        const source = await host.connect(0, owner);
        await until(() => served === i, `connection ${i}`);
        source.close();
      }
      expect(failures).to.deep.equal(['cannot discard']);
      host.close();
    }));

  it('accepts a limited size of a state', () =>
    withPair(async (frames, raw) => {
      const nobody = {
        prepare: () => Promise.reject(new Error('no VM was announced')),
        discard: () => Promise.resolve(),
      };
      const serving = new Incoming(frames, nobody).serve();
      const source = new FrameSocket(raw, owner);
      const state = new Uint8Array(2 ** 20);
      for (let bytes = 0; bytes <= STATE_BYTES_LIMIT; bytes += state.length)
        await source.send('iommuState', { state });
      const frame = await source.next();
      expect(frame.kind === 'migrationFailed' && frame.body.reason).to.match(
        /state of the vIOMMU of \d+ bytes; accepted: 134217728/,
      );
      source.close();
      await serving;
    }));
});
