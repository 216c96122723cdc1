/**
 * Save and restore of a guest's drivers. The target has a copy of RAM at other host addresses and a vIOMMU with the
 * restored state. Both guests then run the same program, and their actions and final states must be equal.
 */
import { isDeepStrictEqual } from 'node:util';
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import { Prng } from '#host';
import { GuestWorker } from '../../src/coordinator/vm/guest-worker.ts';
import { workerEntry } from '../../src/coordinator/workers/entries.ts';
import { GuestStateError } from '../../src/guest/guest-state.ts';
import { InFlightError } from '../../src/guest/in-flight.ts';
import type { GuestDomain, GuestIommu } from '../../src/guest/iommu/guest-iommu.ts';
import { SpaprDriver } from '../../src/guest/iommu/spapr/driver.ts';
import { SpaprCalls } from '../../src/guest/iommu/spapr/hypercalls.ts';
import { RequestQueue } from '../../src/guest/iommu/virtio/requests.ts';
import { VtdQueue } from '../../src/guest/iommu/vtd/invalidation-queue.ts';
import { PageAllocator } from '../../src/guest/page-allocator.ts';
import type { VmControl } from '../../src/guest/protocol.ts';
import type { RegisterPort } from '../../src/guest/register-port.ts';
import { type Gpa, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { GuestMachine, type MachineOptions } from '../fixtures/guest-machine.ts';
import { Program } from '../fixtures/guest-program.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';

const VIOMMUS: readonly MachineOptions[] = [
  { viommu: 'none' },
  { viommu: 'intel' },
  { viommu: 'intel-scalable', params: { stage: 'second' } },
  { viommu: 'intel-scalable', params: { stage: 'first' } },
  { viommu: 'amd' },
  { viommu: 'virtio' },
  { viommu: 'spapr' },
];
const nameOf = ({ viommu, params }: MachineOptions) => `${viommu} ${params?.stage ?? ''}`.trim();
const machines: GuestMachine[] = [];
const tracked = (machine: GuestMachine): GuestMachine => {
  machines.push(machine);
  return machine;
};

afterEach(() => {
  for (const machine of machines.splice(0)) machine.stop();
});

/** Runs until every part of a guest has changed, partly with several flows at a time. */
async function warmUp(options: MachineOptions, seed: number): Promise<Program> {
  const machine = tracked(new GuestMachine(options, 1 + seed));
  const program = new Program(machine, new Prng(seed));
  await program.run(60);
  // Several flows at once change the order of status words, request slots and call slots.
  const { devices, pages } = machine.vm;
  const buffers = await Promise.all(
    Array.from({ length: 12 }, (_, i) =>
      (devices[i % devices.length] as (typeof devices)[number]).dma.map([pages.allocate() as Gpa]),
    ),
  );
  await Promise.all(buffers.map((buffer, i) => devices[i % devices.length]?.dma.unmap(buffer)));
  await program.run(20);
  return program;
}

function expectSame(before: GuestMachine, after: GuestMachine): void {
  expect(after.mappings()).to.deep.equal(before.mappings());
  expect(isDeepStrictEqual(after.bytes(), before.bytes()), 'RAM').to.equal(true);
  expect(JSON.parse(JSON.stringify(after.vm.save()))).to.deep.equal(
    JSON.parse(JSON.stringify(before.vm.save())),
  );
}

describe('guest with drivers restored on another host', function () {
  this.timeout(120_000);

  for (const options of VIOMMUS) {
    it(`continues exactly as the original: ${nameOf(options)}`, async () => {
      for (let seed = 0; seed < 6; seed++) {
        const program = await warmUp(options, seed);
        const before = program.machine;
        const copy = tracked(before.move(options, 20 + seed));
        expect(isDeepStrictEqual(copy.bytes(), before.bytes()), 'RAM is unchanged').to.equal(true);
        if (options.viommu !== 'none') await copy.vm.iommu();
        expect(copy.accesses, 'register accesses').to.equal(0);
        expect(copy.ram.hpaOf(0)).to.not.equal(before.ram.hpaOf(0));
        expectSame(before, copy);
        const twin = program.follow(copy);
        const log = await program.run(80);
        expect(log.filter((line) => /^\w*Error|InUse/.test(line)).length).to.be.lessThan(20);
        expect(await twin.run(80)).to.deep.equal(log);
        expectSame(before, copy);
        expect(before.mappings().flat().length, 'mappings to compare').to.be.greaterThan(0);
        for (const machine of machines.splice(0)) machine.stop();
      }
    });

    it(`moves from host to host: ${nameOf(options)}`, async () => {
      const program = await warmUp(options, 77);
      let twin = program;
      for (let hop = 0; hop < 3; hop++) {
        twin = twin.follow(tracked(twin.machine.move(options, 30 + hop)));
        await twin.run(10);
      }
      await program.run(30);
      expectSame(program.machine, twin.machine);
    });
  }

  it('diverges when its state is changed (control)', async () => {
    const options = { viommu: 'intel' };
    const program = await warmUp(options, 3);
    const before = program.machine;
    const drivers = JSON.parse(JSON.stringify(before.vm.save()));
    drivers.iovas.free = [];
    drivers.iovas.next += PAGE_SIZE;
    drivers.iommu.queue.freeStatus.reverse();
    const moved = {
      ram: before.bytes(),
      iommu: before.iommu.save?.() as Uint8Array,
      drivers: JSON.stringify(drivers),
    };
    const twin = program.follow(tracked(new GuestMachine(options, 9, moved)));
    expect(await twin.run(40)).to.not.deep.equal(await program.run(40));
    expect(() => expectSame(before, twin.machine)).to.throw('RAM');
  });

  it('keeps one driver for vm.virtioIommu() and vm.iommu()', async () => {
    const options = { viommu: 'virtio' };
    const { vm } = tracked(new GuestMachine(options, 1));
    const driver = await vm.virtioIommu();
    const bare = driver.createDomain();
    await bare.map(PAGE_SIZE, 0x10_0000, PAGE_SIZE, PERM_RW);
    const copy = tracked((machines[0] as GuestMachine).move(options, 2));
    const again = await copy.vm.virtioIommu();
    expect(again.domain(bare.id)?.save().mapped).to.deep.equal([[PAGE_SIZE, 0x10_0000, PAGE_SIZE, PERM_RW]]);
    // This first use starts it now, on the same driver.
    const iommu = await copy.vm.iommu();
    expect(iommu.domain(bare.id)).to.equal(copy.vm.domain(bare.id));
    const third = tracked(copy.move(options, 3));
    expect((await third.vm.iommu()).domain(bare.id)).to.equal((await third.vm.virtioIommu()).domain(bare.id));
  });

  for (const viommu of ['intel', 'amd'])
    it(`keeps the drivers of its vGPUs, and the progress of the driver that skips an invalidation: ${viommu}`, async () => {
      const options = { viommu, model: 'vgpu', fault: 'skip-invalidation' };
      const before = tracked(new GuestMachine(options, 1));
      const iommu = await before.vm.iommu();
      const domain = iommu.createDomain();
      await iommu.enableTranslation();
      for (let i = 0; i < 60; i++) await domain.map(i * PAGE_SIZE, 0x10_0000, PAGE_SIZE, PERM_RW);
      const copy = tracked(before.move(options, 2));
      expect(copy.vm.gpus.map(({ driver }) => driver.staticPages)).to.deep.equal(
        before.vm.gpus.map(({ driver }) => driver.staticPages),
      );
      const countOf = async (machine: GuestMachine) => {
        const { accesses } = machine;
        await machine.vm.domain(domain.id)?.unmap(0, PAGE_SIZE);
        return machine.accesses - accesses;
      };
      expect([await countOf(before), await countOf(copy)], 'no invalidations').to.deep.equal([0, 0]);
      expectSame(before, copy);
    });

  it('moves before its first use of the vIOMMU', async () => {
    const options = { viommu: 'intel' };
    const copy = tracked(tracked(new GuestMachine(options, 1)).move(options, 2));
    const domain = (await copy.vm.iommu()).createDomain();
    await domain.map(0, 0x10_0000, PAGE_SIZE, PERM_RW);
    expect(copy.accesses).to.be.greaterThan(0);
  });
});

describe('guest that cannot be saved', () => {
  const page = 0x40_0000 as Gpa;
  type Flow = readonly [name: string, begin: (vm: GuestMachine['vm'], iommu: GuestIommu) => Promise<unknown>];
  const flows: readonly Flow[] = [
    ['dma.map', (vm) => vm.devices[0]?.dma.map([page]) as Promise<unknown>],
    [
      'map',
      (vm) =>
        vm.devices[0]?.dma.domain?.mapAll([
          { iova: 0, gpa: page, size: PAGE_SIZE, perm: PERM_RW },
        ]) as Promise<unknown>,
    ],
    ['attach', (vm, iommu) => iommu.attach(0x10, vm.devices[0]?.dma.domain as GuestDomain)],
    ['disabl', (_, iommu) => iommu.disableTranslation()],
  ];

  for (const options of VIOMMUS.filter(({ viommu }) => viommu !== 'none'))
    it(`names the operation under way, and can be saved afterwards: ${nameOf(options)}`, async () => {
      const { vm } = tracked(new GuestMachine(options, 1));
      const starting = vm.iommu();
      expect(() => vm.save()).to.throw(
        InFlightError,
        "VM 0 cannot be saved now: the start of the vIOMMU's driver",
      );
      const iommu = await starting;
      const domain = iommu.createDomain();
      await iommu.attach(vm.devices[0]?.requesterId as number, domain);
      vm.devices[0]?.dma.setDomain(domain);
      await iommu.enableTranslation();
      for (const [name, begin] of flows) {
        const running = begin(vm, iommu);
        expect(() => vm.save(), name).to.throw(InFlightError, name);
        await running;
        expect(() => vm.save(), name).to.not.throw();
      }
    });

  it('has a queue with requests that hardware has never answered', async () => {
    const dead: RegisterPort = { write: () => {}, read: async () => 0n };
    const ram = smallRam();
    const pages = new PageAllocator(ram, MIB, 4 * MIB);
    const expectTimeout = async (work: Promise<unknown>) =>
      expect(await work.catch((error) => error)).to.be.an('error');
    const vtd = new VtdQueue(dead, ram, pages, 20, false);
    await expectTimeout(vtd.submit([[0, 0, 0, 0]], 'a test'));
    expect(() => vtd.save()).to.throw(InFlightError, '1 submissions');
    const requests = new RequestQueue(dead, ram, pages, 20);
    await expectTimeout(requests.submit([new Uint8Array(16)], 'a test'));
    expect(() => requests.save()).to.throw(InFlightError, '1 requests');
    const calls = new SpaprCalls(dead, ram, pages, 20);
    await expectTimeout(calls.call(4, []));
    expect(() => calls.save()).to.throw(InFlightError, '1 hypercalls');
  });

  it('has a DMA mapping of a driver that the script created', async () => {
    const { vm } = tracked(new GuestMachine({ viommu: 'spapr' }, 1));
    const driver = await SpaprDriver.create(vm.iommuRegisters(), vm.ram, vm.lowPages);
    vm.devices[0]?.dma.setDomain(driver.defaultDomain);
    expect(() => vm.save()).to.throw(GuestStateError, 'belongs to a driver of the script');
  });
});

describe('saved state of another VM', () => {
  const savedWith = (change: (drivers: Record<string, unknown>) => void) => {
    const machine = tracked(new GuestMachine({ viommu: 'intel' }, 1));
    const drivers = JSON.parse(JSON.stringify(machine.vm.save()));
    change(drivers);
    return {
      ram: machine.bytes(),
      iommu: machine.iommu.save?.() as Uint8Array,
      drivers: JSON.stringify(drivers),
    };
  };
  const restoring = (
    change: (drivers: Record<string, unknown>) => void,
    options: MachineOptions = { viommu: 'intel' },
  ) => {
    const state = savedWith(change);
    return () => new GuestMachine(options, 2, state);
  };

  it('is reported by the guest worker', async () => {
    const machine = tracked(new GuestMachine({ viommu: 'intel' }, 1));
    const control = {} as VmControl;
    const host = new GuestWorker({
      entry: workerEntry('guest'),
      task: machine.task,
      control,
      timeoutMs: 10_000,
    });
    const { error } = await host.run({ drivers: { version: 9 }, script: null });
    expect(error).to.equal(
      "GuestStateError: the saved state of the guest's drivers has version 9; accepted: 3",
    );
  });

  it('is refused with the reason', () => {
    expect(restoring((drivers) => Object.assign(drivers, { version: 9 }))).to.throw(
      GuestStateError,
      "the saved state of the guest's drivers has version 9; accepted: 3",
    );
    expect(restoring((drivers) => Object.assign(drivers, { viommu: 'spapr' }))).to.throw(
      GuestStateError,
      "the saved guest has vIOMMU 'spapr', this VM has 'intel'",
    );
    expect(restoring(() => {}, { viommu: 'intel', devices: 3 })).to.throw(
      GuestStateError,
      'the saved guest has 2 devices, this VM has 3',
    );
    expect(
      restoring(({ devices }) => Object.assign((devices as object[])[0] as object, { domain: 7 })),
    ).to.throw(GuestStateError, 'no domain 7');
  });
});
