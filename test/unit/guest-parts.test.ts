/**
 * Small parts of a guest, alone: IOVAs, checks, mutual exclusion, calls in flight, the DMA API, the guest's side of its
 * migration, GPU contexts, and devices without a driver.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import * as gpu from '../../src/abi/vgpu/memory.ts';
import { DeviceLink, DeviceState } from '../../src/channel/device-link.ts';
import { Gate } from '../../src/channel/gate.ts';
import { GuestJournal } from '../../src/channel/guest-journal.ts';
import { GpuContext } from '../../src/guest/gpu/context.ts';
import { DeviceLostError } from '../../src/guest/gpu/errors.ts';
import { InFlight, InFlightError } from '../../src/guest/in-flight.ts';
import { DmaApi } from '../../src/guest/iommu/dma-api.ts';
import type { DmaDomain } from '../../src/guest/iommu/guest-iommu.ts';
import { IovaAllocator } from '../../src/guest/iommu/iova-allocator.ts';
import { type MigrateOptions, migrate, VmMovedError } from '../../src/guest/migration.ts';
import type { MigrationStats } from '../../src/guest/migration-settings.ts';
import { Mutex, SharedMutex } from '../../src/guest/mutex.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import { GuestPciDevice } from '../../src/guest/pci-device.ts';
import type { VmControl } from '../../src/guest/protocol.ts';
import { Verifier } from '../../src/guest/verifier.ts';
import { type Gpa, type Iova, PAGE_2M, PAGE_SIZE } from '../../src/memory/address.ts';
import { RamLog } from '../../src/memory/ram-log.ts';
import { ConfigSpace, MSI_CAPABILITY } from '../../src/pci/config-space.ts';
import { Latencies } from '../../src/report/histograms.ts';
import { serveUntil } from '../fixtures/mmio-serving.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';

const BASE = 2 ** 34;

/** A promise and the function that resolves it. */
function deferred(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

const settle = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) await yieldTurn();
};

describe('allocator of IOVAs', () => {
  it('reuses the last freed range of a size first, and ends where its range ends', () => {
    const iovas = new IovaAllocator(BASE, 8 * PAGE_SIZE);
    const [a, b, pair] = [iovas.allocate(1), iovas.allocate(1), iovas.allocate(2)];
    expect([a, b, pair]).to.deep.equal([BASE, BASE + PAGE_SIZE, BASE + 2 * PAGE_SIZE]);
    iovas.free(a, 1);
    iovas.free(b, 1);
    iovas.free(pair, 2);
    expect(iovas.allocate(2)).to.equal(pair);
    expect([iovas.allocate(1), iovas.allocate(1)]).to.deep.equal([b, a]);
    expect(() => iovas.allocate(5)).to.throw('no 5 free pages');
    expect(iovas.allocate(4), 'up to the end').to.equal(BASE + 4 * PAGE_SIZE);
    expect(() => iovas.allocate(1)).to.throw('no 1 free pages');
  });

  it('continues on another host where it was', () => {
    const iovas = new IovaAllocator(BASE, 8 * PAGE_SIZE);
    const all = [1, 1, 2].map((pages) => [iovas.allocate(pages), pages] as const);
    for (const [iova, pages] of all) iovas.free(iova, pages);
    const there = IovaAllocator.restore(BASE, 8 * PAGE_SIZE, iovas.save());
    for (const pages of [1, 2, 1, 1]) expect(there.allocate(pages)).to.equal(iovas.allocate(pages));
  });
});

describe('checks of a script', () => {
  it('count wrong pages and failed conditions, each with its text', () => {
    const ram = smallRam();
    const journal = new GuestJournal();
    const verify = new Verifier(ram, journal);
    const expected = Buffer.alloc(2 * PAGE_SIZE);
    expected.fill(7, PAGE_SIZE);
    ram.write(0x3000, expected.subarray(PAGE_SIZE));
    verify.pages([0x2000, 0x3000] as Gpa[], expected, 'copy');
    expect([verify.bytesVerified, verify.mismatches]).to.deep.equal([2 * PAGE_SIZE, 0]);
    ram.write32(0x3008, 0x0707_0807);
    verify.pages([0x2000, 0x3000] as Gpa[], expected, 'copy');
    expect(verify.mismatches).to.equal(1);
    verify.check(true, 'holds');
    verify.check(false, 'does not hold');
    expect(verify.checksFailed).to.equal(1);
    expect(journal.read().failures).to.deep.equal([
      'copy: guest page 0x3000 byte 9 holds 07080707, expected 07070707',
      'does not hold',
    ]);
  });
});

describe('mutual exclusion of flows', () => {
  it('continues after a failure', async () => {
    const mutex = new Mutex();
    const failed = mutex.run(() => Promise.reject(new Error('enough'))).catch((error) => error.message);
    expect(await mutex.run(async () => 'next')).to.equal('next');
    expect(await failed).to.equal('enough');
  });

  it('runs exclusive work alone, between shared work before and behind', async () => {
    const mutex = new SharedMutex();
    const log: string[] = [];
    const [first, alone] = [deferred(), deferred()];
    const flow = (name: string, end?: Promise<void>) => async () => {
      log.push(`${name} begins`);
      await end;
      log.push(`${name} ends`);
    };
    const all = [
      mutex.runShared(flow('shared', first.promise)),
      mutex.runExclusive(flow('exclusive', alone.promise)),
      mutex.runShared(flow('later')),
    ];
    await settle();
    expect(log).to.deep.equal(['shared begins']);
    first.resolve();
    await settle();
    expect(log.slice(1)).to.deep.equal(['shared ends', 'exclusive begins']);
    alone.resolve();
    await Promise.all(all);
    expect(log.slice(3)).to.deep.equal(['exclusive ends', 'later begins', 'later ends']);
  });
});

describe('calls in flight', () => {
  it('end also when they fail, at once or later', async () => {
    const calls = new InFlight();
    const now = () => {
      throw new Error('at once');
    };
    const outcomes = [calls.run('now', now), calls.run('later', () => Promise.reject(new Error('later')))];
    expect((await Promise.allSettled(outcomes)).map(({ status }) => status)).to.deep.equal([
      'rejected',
      'rejected',
    ]);
    calls.expectNone('driver');
    const running = deferred();
    const run = calls.run('map', () => running.promise);
    expect(() => calls.expectNone('driver')).to.throw(InFlightError, 'map');
    running.resolve();
    await run;
    calls.expectNone('driver');
  });

  it('begin when the gate of a paused guest opens', async () => {
    const gate = new Gate();
    const calls = new InFlight(gate);
    gate.close();
    let ran = false;
    const run = calls.run('map', async () => {
      ran = true;
    });
    await settle();
    expect(ran).to.equal(false);
    calls.expectNone('driver');
    gate.open();
    await run;
    expect(ran).to.equal(true);
  });
});

describe('DMA API of a device', () => {
  it('frees IOVAs only when no device can reach their pages', async () => {
    const unmapped = deferred();
    const domain = {
      mapAll: async () => {},
      unmap: async () => {
        await unmapped.promise;
        return 0;
      },
    } as unknown as DmaDomain;
    const dma = new DmaApi(new Latencies(), new IovaAllocator(BASE, 16 * PAGE_SIZE));
    dma.setDomain(domain);
    const buffer = await dma.map([0x1000 as Gpa]);
    const unmap = dma.unmap(buffer);
    await settle();
    const during = await dma.map([0x2000 as Gpa]);
    expect(during.iovas).to.not.deep.equal(buffer.iovas);
    unmapped.resolve();
    await unmap;
    expect((await dma.map([0x3000 as Gpa])).iovas, 'now it is free').to.deep.equal(buffer.iovas);
  });
});

describe("guest's side of its migration", () => {
  /** Migrates a guest whose script writes to RAM; `fails` names the call of the coordinator that fails. */
  async function move(fails?: 'copyMemory' | 'handOver', options: MigrateOptions = {}) {
    const ram = smallRam();
    const gate = new Gate();
    const log = RamLog.allocate(ram.size);
    const seen: string[] = [];
    const call = (name: string) => {
      seen.push(`${name}${gate.pending ? ' paused' : ''}`);
      if (name === fails) throw new Error(`${name} failed`);
    };
    const control = {
      beginMigration: async () => {
        call('beginMigration');
        return log.handle;
      },
      copyMemory: async () => {
        ram.write32(0x5000, 1);
        call('copyMemory');
      },
      handOver: async () => {
        call('handOver');
        return { to: 1 } as MigrationStats;
      },
      abortMigration: async () => call('abortMigration'),
    } as unknown as VmControl;
    const guest = {
      ram,
      gate,
      save: () => {
        call('save');
        return {};
      },
    };
    const error = await migrate(guest, control, options).catch((reason) => reason);
    return { error, seen, gate, ram, log };
  }

  it('marks its writes during the copy, and hands over a paused guest', async () => {
    const { error, seen, log } = await move();
    expect(error).to.be.instanceOf(VmMovedError);
    expect(seen).to.deep.equal(['beginMigration', 'copyMemory', 'save paused', 'handOver paused']);
    expect(log.take(5)).to.equal(true);
  });

  for (const call of ['copyMemory', 'handOver'] as const)
    it(`continues where it was when ${call} fails`, async () => {
      const { error, seen, gate, ram } = await move(call);
      expect(error.message).to.equal(`${call} failed`);
      expect(seen.at(-1)).to.match(/^abortMigration/);
      expect(gate.pending).to.equal(undefined);
      expect(ram.log).to.equal(undefined);
    });

  it('aborts when the work of its script fails', async () => {
    const { error, seen } = await move(undefined, { work: () => Promise.reject(new Error('enough')) });
    expect(error.message).to.equal('enough');
    expect(seen).to.include('abortMigration').and.not.include('handOver paused');
  });
});

describe('GPU context of a driver', () => {
  const SLOT = 0x8000;
  const create = () => {
    const ram = smallRam(4 * MIB);
    const pages = new PageAllocator(ram, 0x10000, 0x10000);
    return { ram, context: GpuContext.create(1, 2 ** 32, SLOT, ram, pages) };
  };

  it('links the table of a region again after a page of 2 MiB', () => {
    const { ram, context } = create();
    const { base } = context;
    const [, directory, table] = context.tablePages as [Gpa, Gpa, Gpa];
    context.write(base, PAGE_2M as Iova, PAGE_2M, { pageBytes: PAGE_2M });
    expect(ram.read32(directory) & gpu.GPU_PTE_2M).to.not.equal(0);
    context.write(base + PAGE_SIZE, 0x5000 as Iova, PAGE_SIZE);
    expect(ram.read32(directory)).to.equal(table | gpu.GPU_PTE_PRESENT);
    expect(ram.read32(table + 8)).to.equal(0x5000 | gpu.GPU_PTE_PRESENT | gpu.GPU_PTE_WRITABLE);
  });

  it('refuses ranges beyond its tables, and misaligned pages', () => {
    const { context } = create();
    const write =
      (va: number, iova: number, bytes: number, pageBytes = PAGE_SIZE) =>
      () =>
        context.write(va, iova, bytes, { pageBytes });
    const { base, end } = context;
    for (const refused of [
      write(end - PAGE_SIZE, 0, 2 * PAGE_SIZE),
      write(base - PAGE_SIZE, 0, PAGE_SIZE),
      write(base + PAGE_SIZE, 0, PAGE_2M, PAGE_2M),
      write(base, PAGE_SIZE, PAGE_2M, PAGE_2M),
      write(base + PAGE_SIZE, 0, gpu.GPU_PAGE_64K, gpu.GPU_PAGE_64K),
    ])
      expect(refused).to.throw(RangeError, /accepted: 0x|not multiples of/);
    expect(write(end - PAGE_SIZE, 0, PAGE_SIZE)).to.not.throw();
  });
});

describe('device without a driver', () => {
  const make = () => {
    const link = new DeviceLink();
    link.setState(DeviceState.ready);
    const dma = new DmaApi(new Latencies(), new IovaAllocator(BASE, PAGE_SIZE));
    return { link, device: new GuestPciDevice({ name: 'vm0/dev0', requesterId: 8, link: link.sab }, 0, dma) };
  };

  it('enables all MSI vectors', async () => {
    const { link, device } = make();
    const identity = { vendorId: 1, deviceId: 2, subsystemVendorId: 0, subsystemId: 0, revision: 0 };
    const config = new ConfigSpace({ ...identity, classCode: 0xff0000, bar0Bytes: 0x1000, msiVectors: 8 });
    const target = {
      read: (_region: number, offset: number, size: number) => config.registers.read(offset, size),
      write: (_region: number, offset: number, size: number, value: bigint) =>
        config.registers.write(offset, size, value),
      readBlock: () => {},
      writeBlock: () => {},
    };
    const server = link.mmioServer();
    await serveUntil(device.start(), server, target, 64);
    server.serve(target, 64); // the last write is posted
    expect(Number(config.registers.read(MSI_CAPABILITY + 2, 2)) & 0x71, '8 vectors, enabled').to.equal(0x31);
    expect([0, 7].map((vector) => config.delivered(vector))).to.deep.equal([0, 7]);
  });

  it('returns an interrupt that has come already, and waits for the next', async () => {
    const { link, device } = make();
    link.interrupt(3);
    expect(await device.waitInterrupt(3, 0)).to.equal(1);
    const next = device.waitInterrupt(3, 1);
    link.interrupt(3);
    expect(await next).to.equal(2);
  });

  it('ends a wait when it is lost', async () => {
    const { link, device } = make();
    link.setState(DeviceState.failed);
    const lost = await device.waitInterrupt(0, 0).catch((error) => error);
    expect(lost).to.be.instanceOf(DeviceLostError);
  });
});
