/**
 * A VM's memory on its way between two hosts, with both sides in this process. Its only device is lost, but its container
 * still has dirty pages.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Prng, sleep } from '#host';
import { FrameSocket } from '../../src/channel/frame-socket.ts';
import type { VmDevice } from '../../src/coordinator/vm/device.ts';
import type { HostSocket } from '../../src/coordinator/vm/migration/host-socket.ts';
import { type ArrivingVm, Incoming } from '../../src/coordinator/vm/migration/incoming.ts';
import { type MigratableVm, VmMigration } from '../../src/coordinator/vm/migration/migration.ts';
import { MIGRATION_VERSION, Outgoing } from '../../src/coordinator/vm/migration/outgoing.ts';
import type { GuestSnapshot } from '../../src/guest/protocol.ts';
import { type Hpa, type Iova, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { GuestRam } from '../../src/memory/guest-ram.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { PinTableReader } from '../../src/pin-table/reader.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { Container } from '../../src/vfio/container.ts';
import { NoIommu } from '../../src/viommu/none.ts';

const MIB = 2 ** 20;
const ABOVE = 2 ** 32;
/** Time between a failure and its abort, in which no hand-over may happen. */
const ABORT_MS = 100;
const SETTINGS = { downtimeMs: 0, rounds: 3, compare: true };
const owner = { header: (device: number) => ({ timeUs: 0, process: 0, vm: 0, device }) };

/** Runs `test` with both ends of a connection. */
async function withSockets(test: (source: FrameSocket, target: FrameSocket) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'mdevsim-moves-'));
  const server = createServer();
  try {
    const path = join(folder, 'x.sock');
    await new Promise<void>((resolve) => {
      server.listen(path, resolve);
    });
    const accepted = new Promise<Socket>((resolve) => {
      server.once('connection', resolve);
    });
    const source = new FrameSocket(connect(path), owner);
    const target = new FrameSocket(await accepted, owner);
    await test(source, target);
    source.close();
    target.close();
  } finally {
    server.close();
    rmSync(folder, { recursive: true });
  }
}

const ramOf = (seed: number) => GuestRam.allocate(HPA_BASE as Hpa, 2 * MIB, 2 * MIB, new Prng(seed));
const bytesOf = (ram: GuestRam) => ram.regions.map(({ gpa, size }) => ram.read(gpa, size));

/** A VM at its source host. */
function sourceVm() {
  const ram = ramOf(1);
  const table = new PinTableWriter(64, { hostPages: { first: HPA_BASE / PAGE_SIZE, count: 1024 } });
  const container = new Container(table, ram);
  const reader = new PinTableReader(table.sab, table.addReader());
  container.map(0 as Iova, 0, 2 * MIB, PERM_RW);
  const hooks = { settle: () => {} };
  const vm: MigratableVm = {
    ...owner,
    ...{ ram, iommu: new NoIommu(ram) },
    devices: [{ alive: false, failure: 'lost', leaving: '', container } as unknown as VmDevice],
    configFor: () => '{}',
    settle: async () => hooks.settle(),
    expectations: () => '{"faults":[]}',
  };
  return { vm, ram, container, reader, table, hooks };
}

/** Moves a VM. `change` writes at the source when all was copied once, `arrive` acts at the target when it loads. */
async function move(
  change: (source: ReturnType<typeof sourceVm>) => void,
  arrive: (target: GuestRam, outgoing: Outgoing) => void = () => {},
  settings: Partial<typeof SETTINGS> = {},
) {
  const source = sourceVm();
  const target = ramOf(2);
  const seen = { resumed: undefined as GuestSnapshot | undefined, expectations: '', discarded: 0 };
  let outcome = '';
  let stats: Awaited<ReturnType<Outgoing['handOver']>> | undefined;
  for (const at of [0x1000, 0x5000, 2 * MIB - 8, ABOVE, ABOVE + 0x7000])
    source.ram.write(at, Uint8Array.of(1, 2, 3, 4));
  await withSockets(async (left, right) => {
    source.ram.startLog();
    const socket = { from: 0, to: 1, socket: left };
    const outgoing = new Outgoing(source.vm, { ...SETTINGS, ...settings }, socket);
    const arriving: ArrivingVm = {
      ...{ ram: target, devices: [] },
      load: async (_state, expectations) => {
        seen.expectations = expectations;
        arrive(target, outgoing);
      },
      resume: async (snapshot) => {
        seen.resumed = snapshot;
      },
    };
    const host = {
      prepare: async () => arriving,
      discard: async () => {
        seen.discarded++;
      },
    };
    const serving = new Incoming(right, host).serve();
    try {
      await outgoing.copy();
      change(source);
      stats = await outgoing.handOver('{"drivers":1,"script":null}', 0);
    } catch (error) {
      outcome = (error as Error).message;
      await sleep(ABORT_MS);
      await outgoing.abort(outcome);
    }
    await serving;
  });
  return { ...source, target, stats, outcome, seen };
}

describe('the memory of a VM that moves', () => {
  it('arrives whole, with the changes of guest, device and vIOMMU until the end', async () => {
    const { ram, target, stats, outcome, seen, container } = await move((source) => {
      source.ram.write(0x5000, new Uint8Array(4)); // zeros again
      source.ram.write(0x9ff8, new Uint8Array(16).fill(7));
      source.hooks.settle = () => source.ram.write(ABOVE + 0x8000, Uint8Array.of(9));
      // A write of the device marks only the container's log.
      const { ram } = source;
      ram.host.write(ram.hpaOf(0x2_0000) as Hpa, Uint8Array.of(5, 6), 0, 2);
      source.reader.markWritten(ram.frameOf(0x2_0000));
    });
    expect(outcome).to.equal('');
    expect(bytesOf(target)).to.deep.equal(bytesOf(ram));
    expect(target.read(0x2_0000, 2)).to.deep.equal(Uint8Array.of(5, 6));
    expect(target.read(ABOVE + 0x8000, 1), 'of the commands in flight').to.deep.equal(Uint8Array.of(9));
    expect(stats).to.include({ comparedBytes: 4 * MIB, differentBytes: 0, forced: false });
    expect(seen).to.deep.equal({
      ...{ resumed: { drivers: 1, script: null }, expectations: '{"faults":[]}', discarded: 0 },
    });
    expect([container.dirty.tracking, ram.log], 'nothing is logged any more').to.deep.equal([
      false,
      undefined,
    ]);
  });

  it('is compared everywhere: a byte that differs ends the migration, and the VM stays', async () => {
    for (const gpa of [0x1000, 0x3_0005, ABOVE + 0x1_0003]) {
      const { outcome, seen, ram, container } = await move(
        () => {},
        (target) => target.write(gpa, Uint8Array.of(0xee)),
      );
      expect(outcome).to.equal(`1 bytes of RAM differ on the other host, the first at 0x${gpa.toString(16)}`);
      expect([seen.resumed, seen.discarded]).to.deep.equal([undefined, 1]);
      expect([container.dirty.tracking, ram.log]).to.deep.equal([false, undefined]);
    }
  });

  it('does not run at the target after a failure at the source', async () => {
    const { outcome, seen } = await move(
      () => {},
      (_target, outgoing) => outgoing.fail(new Error('gpu0 is lost')),
    );
    expect([outcome, seen.resumed, seen.discarded]).to.deep.equal(['gpu0 is lost', undefined, 1]);
  });

  it('is copied in a limited count of rounds, however much changes', async () => {
    const source = sourceVm();
    source.reader.noteHeld(source.ram.frameOf(0x1000));
    source.ram.startLog();
    await withSockets(async (left, right) => {
      const outgoing = new Outgoing(source.vm, SETTINGS, { from: 0, to: 1, socket: left });
      const arriving: ArrivingVm = {
        ...{ ram: ramOf(2), devices: [] },
        load: async () => {},
        resume: async () => {},
      };
      const serving = new Incoming(right, { prepare: async () => arriving, discard: async () => {} }).serve();
      await outgoing.copy();
      const { rounds, forced } = await outgoing.handOver('{}', 0);
      expect([forced, rounds.length]).to.deep.equal([true, SETTINGS.rounds + 1]);
      await serving;
    });
  });
});

describe('the stream of a VM that moves', () => {
  const refusal = async (send: (source: FrameSocket) => Promise<void>) => {
    let reason = '';
    let resumed = false;
    await withSockets(async (source, target) => {
      const vm: ArrivingVm = {
        ...{ ram: ramOf(3), devices: [] },
        load: async () => {},
        resume: async () => {
          resumed = true;
        },
      };
      const host = { prepare: async () => vm, discard: async () => {} };
      const serving = new Incoming(target, host).serve();
      await send(source);
      for (let frame = await source.next(); reason === ''; frame = await source.next())
        if (frame.kind === 'migrationFailed') {
          ({ reason } = frame.body);
          break;
        }
      source.close();
      await serving;
    });
    expect(resumed).to.equal(false);
    return reason;
  };
  const start = { version: MIGRATION_VERSION, config: '{}' };

  it('has a version, begins once, and is resumed only when it was loaded', async () => {
    expect(await refusal((s) => s.send('migrationStart', { ...start, version: 99 }))).to.match(/version 99/);
    const twice = async (s: FrameSocket) => {
      await s.send('migrationStart', start);
      await s.send('migrationStart', start);
    };
    expect(await refusal(twice)).to.match(/twice/);
    const early = async (s: FrameSocket) => {
      await s.send('migrationStart', start);
      await s.send('migrationResume', {});
    };
    expect(await refusal(early)).to.match(/before migrationLoad/);
    expect(await refusal((s) => s.send('zeroPages', { gpa: 0, bytes: 4096, compare: false }))).to.match(
      /begins with migrationStart/,
    );
  });
});

describe('the migrations of a VM', () => {
  const host = { process: 0, hostCount: 2 } as HostSocket;

  it('follow one another, each to another host, without a device that is about to be lost', async () => {
    const { vm, ram } = sourceVm();
    const migration = new VmMigration(vm, host);
    expect(() => migration.begin({ ...SETTINGS, to: 0 } as never)).to.throw("VM's own host");
    migration.begin(SETTINGS);
    expect(ram.log).to.not.equal(undefined);
    expect(() => migration.begin(SETTINGS)).to.throw('already migrating');
    await migration.guestEnded();
    expect(ram.log, 'aborted').to.equal(undefined);
    migration.begin(SETTINGS);
    await migration.abort('enough');
    const device = vm.devices[0] as { failure: string; leaving: string };
    [device.failure, device.leaving] = ['', 'the host removes it'];
    expect(() => migration.begin(SETTINGS)).to.throw('is lost: the host removes it');
    expect(() => new VmMigration(vm, undefined).begin(SETTINGS)).to.throw('this run has one host');
  });
});
