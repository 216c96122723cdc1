import { existsSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { pathToFileURL } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { FrameSocket } from '../../src/channel/frame-socket.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';
import { expectSound } from './expect-sound.ts';
import { type Hosts, type MovingOptions, until, withHosts } from './migration-hosts.ts';
import type { VmResult } from './run-in-process.ts';

/** Starts both hosts and waits until the VM has ended, wherever. */
async function moved(options: MovingOptions): Promise<Hosts['received']> {
  let received: Hosts['received'] = [];
  await withHosts(options, async (hosts) => {
    hosts.start(0);
    hosts.start(1);
    received = hosts.received;
    await until(
      () => received.some(({ results }) => results.some(({ result }) => !result.moved)),
      'the VM’s end',
    );
  });
  return received;
}

/** Of the VM that has ended at the first host. */
const resultOf = (received: Hosts['received']): VmResult => received[0]?.results[0]?.result as VmResult;

const notesOf = (received: Hosts['received']): string =>
  received.flatMap(({ results }) => results.flatMap(({ result }) => result.notes)).join('\n');

describe('a VM that moves to another host', function () {
  this.timeout(60_000);

  for (const viommu of ['none', 'intel', 'intel-scalable', 'virtio', 'spapr'])
    it(`goes on there with its devices, its memory and its ${viommu} vIOMMU`, async () => {
      const [first, second] = (await moved({ viommu })) as [Hosts['received'][0], Hosts['received'][0]];
      expect(first.results.map(({ result }) => result.moved)).to.deep.equal([true]);
      expect(second.results.map(({ result }) => result.moved)).to.deep.equal([false]);
      expect(second.arrived).to.deep.equal([0]);
      for (const { result } of [...first.results, ...second.results]) expectSound(result);
      expect(notesOf([first])).to.match(/host 0 → 1 in .* 16\.0 MiB compared, 0 bytes differ/);
      expect(notesOf([second])).to.match(/arrived after 1/);
    });

  it('leaves the steps of its move in the traces of both hosts, and no memory', async () => {
    let steps: string[][] = [];
    const onTraces: MovingOptions['onTraces'] = (traces) => {
      steps = traces.map((frames) =>
        frames.map(({ kind }) => kind).filter((kind) => kind.startsWith('migration') || kind === 'vmArrived'),
      );
      const largest = Math.max(...traces.flat().map((frame) => JSON.stringify(frame).length));
      expect(largest).to.be.below(64 * 1024);
    };
    await moved({ onTraces });
    expect(steps).to.deep.equal([
      ['migrationStart', 'migrationLoad', 'migrationCompare', 'migrationResume'],
      ['migrationReady', 'migrationLoaded', 'migrationCompared', 'vmArrived', 'migrationRunning'],
    ]);
  });

  it('comes back, and goes again', async () => {
    const received = await moved({ params: { hops: 3 } });
    expect(
      received.map(({ arrived }) => arrived.length),
      notesOf(received),
    ).to.deep.equal([1, 2]);
    for (const { results } of received) for (const { result } of results) expectSound(result);
    expect(notesOf(received)).to.include('arrived after 3');
  });

  it('is paused after so many rounds if what it writes does not become less', async () => {
    const received = await moved({ params: { work: 'writes', rounds: 1, downtimeMs: 0 } });
    for (const { results } of received) for (const { result } of results) expectSound(result);
    expect(notesOf(received)).to.match(/VM 0: 2 rounds \(did not converge\)/);
  });
});

describe('a VM that cannot move', function () {
  this.timeout(60_000);

  async function stays(options: MovingOptions, why: RegExp): Promise<void> {
    const received = await moved(options);
    expect(received[0]?.results).to.have.length(1);
    expectSound(resultOf(received));
    expect(notesOf(received)).to.match(why);
  }

  it('is told so if the host is itself, or not there', async () => {
    await stays({ params: { to: 0 } }, /stayed: MigrationError: .*the VM's own host/);
    await stays({ params: { to: 9 } }, /stayed: MigrationError: .*to: 9; accepted: 0 to 1/);
  });

  it('stays if a device’s model does not say what only it knows', () =>
    stays(
      { model: pathToFileURL('test/fixtures/models/edu-without-state.ts').href },
      /stayed: MigrationError: vm0\/dev\d: cannot be migrated: the model '.*edu-without-state.*' has no `state`/,
    ));

  it('stays if its script’s work fails', () =>
    stays({ params: { work: 'throws' } }, /stayed: Error: the work has failed/));

  for (const frames of [0, 3])
    it(`stays if the other host goes away ${frames === 0 ? 'at once' : 'while memory is copied'}`, async () => {
      await withHosts({}, async ({ sockets, start, received }) => {
        const server = await dyingHost(sockets[1] as string, frames);
        start(0);
        await until(() => received[0]?.results.length === 1, 'the VM’s end');
        server.close();
        expectSound(resultOf(received));
        expect(notesOf(received)).to.match(/stayed: MigrationError: the other host has gone/);
      });
    });

  it('stays if the other host cannot have it', async () => {
    await withHosts({}, async ({ sockets, start, received }) => {
      const server = await refusingHost(sockets[1] as string, 'no room');
      start(0);
      await until(() => received[0]?.results.length === 1, 'the VM’s end');
      server.close();
      expectSound(resultOf(received));
      expect(notesOf(received)).to.match(/stayed: MigrationError: no room/);
    });
  });

  it('stays if its script’s work does not end when it is told to', () =>
    stays(
      { params: { work: 'stays' } },
      /stayed: MigrationError: the script's work did not end within 10000 ms/,
    ));

  it('stays if nobody is there', async () => {
    await withHosts({}, async ({ start, received }) => {
      start(0);
      await until(() => received[0]?.results.length === 1, 'the VM’s end');
      expect(notesOf(received)).to.match(/stayed: MigrationError: host 1: connect ENOENT/);
    });
  });
});

const owner = { header: (device: number) => ({ timeUs: 0, process: 1, vm: 0, device }) };

/** A host that says it is ready, takes so many frames, and dies; 0: it dies at once. */
const dyingHost = (path: string, frames: number): Promise<Server> =>
  listen(path, async (socket) => {
    const stream = new FrameSocket(socket, owner);
    if (frames > 0) {
      await stream.next();
      await stream.send('migrationReady', {});
      for (let i = 0; i < frames; i++) await stream.next();
    }
    socket.destroy();
  });

const refusingHost = (path: string, reason: string): Promise<Server> =>
  listen(path, async (socket) => {
    const stream = new FrameSocket(socket, owner);
    await stream.next();
    await stream.send('migrationFailed', { reason });
    stream.close();
  });

async function listen(path: string, serve: (socket: Socket) => Promise<void>): Promise<Server> {
  const server = createServer((socket) => void serve(socket));
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  return server;
}

describe('a host that VMs come to', function () {
  this.timeout(60_000);

  /** Says something else than a migration to a host; its answer, then a real VM comes. */
  async function hears(say: (stream: FrameSocket) => Promise<void>): Promise<string> {
    let answer = '';
    await withHosts({}, async ({ sockets, start, received }) => {
      start(1);
      await until(() => existsSync(sockets[1] as string), 'the socket');
      const stream = new FrameSocket(connect(sockets[1] as string), owner);
      await say(stream);
      const frame = await stream.next();
      if (frame.kind === 'migrationFailed') answer = frame.body.reason;
      stream.close();
      start(0);
      await until(() => received[1]?.results.length === 1, 'the VM’s end');
      expectSound(received[1]?.results[0]?.result as VmResult);
    });
    return answer;
  }

  it('refuses what is no migration, and takes in the next', async () => {
    expect(
      await hears((stream) =>
        stream.send('ramPages', { gpa: 0, data: new Uint8Array(4096), compare: false }),
      ),
    ).to.match(/begins with migrationStart/);
    expect(await hears((stream) => stream.send('deviceStop', {}))).to.match(/has no deviceStop/);
    expect(await hears((stream) => stream.send('migrationStart', { version: 9, config: '' }))).to.match(
      /version 9; accepted: 1/,
    );
    expect(await hears((stream) => stream.send('migrationStart', { version: 1, config: '{' }))).to.match(
      /JSON/,
    );
  });

  it('lets go of a VM that does not come to its end', async () => {
    const config = { ...ARRIVING, vm: 5 };
    const start = { version: 1, config: JSON.stringify(config) };
    const reason = await hears(async (stream) => {
      await stream.send('migrationStart', start);
      expect((await stream.next()).kind).to.equal('migrationReady');
      await stream.send('ramPages', { gpa: 2 ** 31, data: new Uint8Array(4096), compare: false });
    });
    expect(reason).to.match(/guest address 0x80000000 \+4096 is not guest RAM/);
    expect(
      await hears(async (stream) => {
        await stream.send('migrationStart', start);
        await stream.next();
        await stream.send('deviceStream', { data: new Uint8Array(100), end: false, interrupts: [] }, 0);
      }),
    ).to.match(/vm5\/dev0: /);
    expect(
      await hears(async (stream) => {
        await stream.send('migrationStart', start);
        await stream.next();
        await stream.send('migrationLoad', {});
      }),
    ).to.match(/the state of the guest is missing/);
    expect(
      await hears(async (stream) => {
        await stream.send('migrationStart', start);
        await stream.next();
        await stream.send('migrationResume', {});
      }),
    ).to.match(/before migrationLoad/);
  });
});

/** A VM as a source host describes it. */
const ARRIVING = {
  process: 1,
  vm: 0,
  vgpus: 1,
  mdevTypes: [],
  seed: 7,
  hpaBase: 2 ** 40,
  ramBytes: 16 * 2 ** 20,
  viommu: 'intel',
  scenario: scenarioUrl('test/fixtures/scenarios/moving.ts'),
  params: {},
  timeoutMs: 60_000,
  model: 'edu',
  modelSource: '',
  deviceTimeoutMs: 20_000,
  inject: '',
  hops: 1,
};
