import { existsSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { pathToFileURL } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { FrameSocket } from '../../src/channel/frame-socket.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';
import { until } from '../support/until.ts';
import { expectSound } from './expect-sound.ts';
import { type Hosts, type MovingOptions, VM_TIMEOUT_MS, vmEnd, withHosts } from './migration-hosts.ts';
import type { VmResult } from './run-in-process.ts';

/** Starts both hosts and waits until the VM has ended on either of them. */
async function runBothHosts(options: MovingOptions): Promise<Hosts['received']> {
  let received: Hosts['received'] = [];
  await withHosts(options, async (hosts) => {
    hosts.start(0);
    hosts.start(1);
    received = hosts.received;
    await until(
      () => received.some(({ results }) => results.some(({ result }) => !result.moved)),
      'the end of the VM',
      VM_TIMEOUT_MS,
    );
  });
  return received;
}

/** Returns the result of the VM that has ended on the first host. */
const resultOf = (received: Hosts['received']): VmResult => received[0]?.results[0]?.result as VmResult;

const notesOf = (received: Hosts['received']): string =>
  received.flatMap(({ results }) => results.flatMap(({ result }) => result.notes)).join('\n');

describe('a VM that migrates to another host', function () {
  this.timeout(120_000);

  for (const viommu of ['none', 'intel', 'intel-scalable', 'amd', 'virtio', 'spapr'])
    it(`resumes there with its devices, its memory and its vIOMMU: ${viommu}`, async () => {
      const [first, second] = (await runBothHosts({ viommu })) as [
        Hosts['received'][0],
        Hosts['received'][0],
      ];
      expect(first.results.map(({ result }) => result.moved)).to.deep.equal([true]);
      expect(second.results.map(({ result }) => result.moved)).to.deep.equal([false]);
      expect(second.arrived).to.deep.equal([0]);
      for (const { result } of [...first.results, ...second.results]) expectSound(result);
      expect(notesOf([first])).to.match(/host 0 → 1 in .* 16\.0 MiB compared, 0 bytes differ/);
      expect(notesOf([second])).to.match(/arrived after 1/);
    });

  it('leaves the steps of the migration, but no RAM, in the traces of both hosts', async () => {
    let steps: string[][] = [];
    const onTraces: MovingOptions['onTraces'] = (traces) => {
      steps = traces.map((frames) =>
        frames.map(({ kind }) => kind).filter((kind) => kind.startsWith('migration') || kind === 'vmArrived'),
      );
      const largest = Math.max(...traces.flat().map((frame) => JSON.stringify(frame).length));
      expect(largest).to.be.below(64 * 1024);
    };
    await runBothHosts({ onTraces });
    expect(steps).to.deep.equal([
      ['migrationStart', 'migrationLoad', 'migrationCompare', 'migrationResume'],
      ['migrationReady', 'migrationLoaded', 'migrationCompared', 'vmArrived', 'migrationRunning'],
    ]);
  });

  it('migrates back and forth', async () => {
    const received = await runBothHosts({ params: { hops: 3 } });
    expect(
      received.map(({ arrived }) => arrived.length),
      notesOf(received),
    ).to.deep.equal([1, 2]);
    for (const { results } of received) for (const { result } of results) expectSound(result);
    expect(notesOf(received)).to.include('arrived after 3');
  });

  it('is paused after the limit of rounds if it does not converge', async () => {
    const received = await runBothHosts({ params: { work: 'writes', rounds: 1, downtimeMs: 0 } });
    for (const { results } of received) for (const { result } of results) expectSound(result);
    expect(notesOf(received)).to.match(/VM 0: 2 rounds \(did not converge\)/);
  });
});

describe('a VM that migrates with calls of its drivers in flight', function () {
  this.timeout(120_000);
  const scenario = 'test/fixtures/scenarios/full-rings.ts';
  const options = { scenario, vgpus: 1, model: 'vgpu' };

  it('takes along the commands that wait for room in a ring', async () => {
    for (const late of [false, true]) {
      const received = await runBothHosts({ ...options, params: { late } });
      for (const { results } of received) for (const { result } of results) expectSound(result);
      expect(notesOf(received)).to.match(
        /16\.0 MiB compared, 0 bytes differ[\s\S]*commands before, \d+ here/,
      );
    }
  });

  it('stays, and names the call, if a call with several steps is under way', async () => {
    const received = await runBothHosts({ ...options, params: { vram: true } });
    expectSound(resultOf(received));
    expect(notesOf(received)).to.match(
      /stayed: InFlightError: vm0\/gpu0 cannot be saved now: vram.write(, 1 block accesses)? in flight/,
    );
  });
});

describe('a VM that cannot migrate', function () {
  this.timeout(120_000);

  async function expectStays(options: MovingOptions, why: RegExp): Promise<void> {
    const received = await runBothHosts(options);
    expect(received[0]?.results).to.have.length(1);
    expectSound(resultOf(received));
    expect(notesOf(received)).to.match(why);
  }

  it('stays if the other host is its own host or does not exist', async () => {
    await expectStays({ params: { to: 0 } }, /stayed: MigrationError: .*the VM's own host/);
    await expectStays({ params: { to: 9 } }, /stayed: MigrationError: .*to: 9; accepted: 0 to 1/);
  });

  it('stays if a device model has no state to save', () =>
    expectStays(
      { model: pathToFileURL('test/fixtures/models/edu-without-state.ts').href },
      /stayed: MigrationError: vm0\/dev\d: cannot be migrated: the model '.*edu-without-state.*' has no `state`/,
    ));

  it('stays if the work of its script fails', () =>
    expectStays({ params: { work: 'throws' } }, /stayed: Error: the work has failed/));

  for (const frames of [0, 3])
    it(`stays if the other host dies ${frames === 0 ? 'at once' : 'while RAM is copied'}`, async () => {
      await withHosts({}, async (hosts) => {
        const { sockets, start, received } = hosts;
        const server = await dyingHost(sockets[1] as string, frames);
        start(0);
        await vmEnd(hosts, 0);
        server.close();
        expectSound(resultOf(received));
        expect(notesOf(received)).to.match(/stayed: MigrationError: the other host has gone/);
      });
    });

  it('stays if the other host refuses it', async () => {
    await withHosts({}, async (hosts) => {
      const { sockets, start, received } = hosts;
      const server = await refusingHost(sockets[1] as string, 'no room');
      start(0);
      await vmEnd(hosts, 0);
      server.close();
      expectSound(resultOf(received));
      expect(notesOf(received)).to.match(/stayed: MigrationError: no room/);
    });
  });

  it('stays if the work of its script does not end on request', () =>
    expectStays(
      { params: { work: 'stays' } },
      /stayed: MigrationError: the script's work did not end within 10000 ms/,
    ));

  it('stays if the other host does not run', async () => {
    await withHosts({}, async (hosts) => {
      const { start, received } = hosts;
      start(0);
      await vmEnd(hosts, 0);
      expect(notesOf(received)).to.match(/stayed: MigrationError: host 1: connect ENOENT/);
    });
  });
});

const owner = { header: (device: number) => ({ timeUs: 0, process: 1, vm: 0, device }) };

/** Serves a host that gets ready, receives `frames` frames, and dies. With 0 frames it dies at once. */
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

describe('a host that receives VMs', function () {
  this.timeout(120_000);

  /** Sends an invalid migration and returns the reason of the refusal. Then a valid VM must arrive. */
  async function refusalOf(send: (stream: FrameSocket) => Promise<void>): Promise<string> {
    let answer = '';
    await withHosts({}, async (hosts) => {
      const { sockets, start, received } = hosts;
      start(1);
      await until(() => existsSync(sockets[1] as string), 'the socket');
      const stream = new FrameSocket(connect(sockets[1] as string), owner);
      await send(stream);
      const frame = await stream.next();
      if (frame.kind === 'migrationFailed') answer = frame.body.reason;
      stream.close();
      start(0);
      await vmEnd(hosts, 1);
      expectSound(received[1]?.results[0]?.result as VmResult);
    });
    return answer;
  }

  it('refuses an invalid migration and accepts the next VM', async () => {
    expect(
      await refusalOf((stream) =>
        stream.send('ramPages', { gpa: 0, data: new Uint8Array(4096), compare: false }),
      ),
    ).to.match(/begins with migrationStart/);
    expect(await refusalOf((stream) => stream.send('deviceStop', {}))).to.match(/has no deviceStop/);
    expect(await refusalOf((stream) => stream.send('migrationStart', { version: 9, config: '' }))).to.match(
      /version 9; accepted: 2/,
    );
    expect(await refusalOf((stream) => stream.send('migrationStart', { version: 2, config: '{' }))).to.match(
      /JSON/,
    );
  });

  it('releases a VM whose migration fails', async () => {
    const config = { ...ARRIVING, vm: 5 };
    const start = { version: 2, config: JSON.stringify(config) };
    const reason = await refusalOf(async (stream) => {
      await stream.send('migrationStart', start);
      expect((await stream.next()).kind).to.equal('migrationReady');
      await stream.send('ramPages', { gpa: 2 ** 31, data: new Uint8Array(4096), compare: false });
    });
    expect(reason).to.match(/guest address 0x80000000 \+4096 is not guest RAM/);
    expect(
      await refusalOf(async (stream) => {
        await stream.send('migrationStart', start);
        await stream.next();
        await stream.send('deviceStream', { data: new Uint8Array(100), end: false, interrupts: [] }, 0);
      }),
    ).to.match(/vm5\/dev0: /);
    expect(
      await refusalOf(async (stream) => {
        await stream.send('migrationStart', start);
        await stream.next();
        await stream.send('migrationLoad', { expectations: '' });
      }),
    ).to.match(/the state of the guest is missing/);
    expect(
      await refusalOf(async (stream) => {
        await stream.send('migrationStart', start);
        await stream.next();
        await stream.send('migrationResume', {});
      }),
    ).to.match(/before migrationLoad/);
  });
});

/** Configuration of a VM as a source host sends it. */
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
  migrations: 1,
  lostDevices: [],
};
