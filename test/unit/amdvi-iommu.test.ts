/**
 * The AMD-Vi model: what recorded vectors do not show, because their devices have no container that waits.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as amdvi from '../../src/abi/amdvi.ts';
import type { Iova } from '../../src/memory/address.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import {
  AmdRig,
  DEVICE,
  EVENTS,
  invalidateAll,
  invalidateDevice,
  invalidatePage,
  LOWEST,
  putDevice,
  putEntry,
  RUNNING,
  STATUS,
  waitCommand,
} from '../fixtures/amdvi-rig.ts';
import { RecordingNotifier } from '../fixtures/recording-notifier.ts';

const { CONTROL } = amdvi;
const TRANSLATED = ['0x5000>0x100000+0x1000/3'];
const IDENTITY = ['0x0>0x0+0x2000000/3'];

describe('AMD-Vi', () => {
  it('completes a COMPLETION_WAIT only when no device can use what the commands before it invalidate', async () => {
    const rig = new AmdRig();
    expect(rig.held()).to.deep.equal(TRANSLATED);
    rig.notifier.hold();
    rig.ram.write32(LOWEST + 5 * 8, 0);
    const work = rig.submit(invalidatePage(0x5000), waitCommand(9), waitCommand(10));
    expect(rig.ram.read32(STATUS)).to.equal(0);
    expect(rig.read(amdvi.COMMAND_HEAD_REG)).to.equal(0n);
    rig.notifier.release();
    await work;
    expect(rig.ram.read32(STATUS)).to.equal(10);
    expect(rig.read(amdvi.COMMAND_HEAD_REG)).to.equal(0x30n);
    expect(rig.held()).to.deep.equal([]);
  });

  it('sets the run bits only when the switch of all devices is complete', async () => {
    const rig = new AmdRig();
    rig.notifier.hold();
    const work = rig.write(amdvi.CONTROL_REG, 0n);
    expect(rig.read(amdvi.STATUS_REG)).to.equal(0x18n);
    rig.notifier.release();
    await work;
    expect(rig.read(amdvi.STATUS_REG)).to.equal(0n);
    expect(rig.held()).to.deep.equal(IDENTITY);
    rig.write(amdvi.CONTROL_REG, RUNNING);
    expect(rig.held()).to.deep.equal(TRANSLATED);
  });

  it('moves a base written during a command only after it', async () => {
    const rig = new AmdRig();
    rig.notifier.hold();
    rig.ram.write32(LOWEST + 5 * 8, 0);
    const work = rig.submit(invalidatePage(0x5000), waitCommand(9));
    const moved = rig.write(amdvi.COMMAND_BASE_REG, rig.read(amdvi.COMMAND_BASE_REG));
    rig.notifier.release();
    await work;
    await moved;
    expect(rig.ram.read32(STATUS)).to.equal(9);
    expect(rig.read(amdvi.COMMAND_HEAD_REG)).to.equal(0n);
  });

  it('changes a container only at an invalidation of its domain or its device', () => {
    const rig = new AmdRig();
    putEntry(rig.ram, LOWEST + 6 * 8, 0x200000, 0, 1);
    rig.submit(invalidatePage(0x6000, 8), invalidatePage(0x7000), invalidateDevice(DEVICE));
    expect(rig.held()).to.deep.equal(TRANSLATED);
    rig.submit(invalidatePage(0x6000));
    expect(rig.held()).to.deep.equal([...TRANSLATED, '0x6000>0x200000+0x1000/1']);
    const events = { ...rig.space.counters };
    rig.submit(invalidateAll());
    expect(rig.space.counters).to.deep.equal({ ...events, syncs: events.syncs + 1 });
    putDevice(rig.ram, DEVICE, { low: amdvi.DTE_V });
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.space.kind).to.equal('blocked');
    putDevice(rig.ram, DEVICE, { low: 0 });
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.held()).to.deep.equal(IDENTITY);
  });

  it('holds a page of an encoded size as one mapping while its entries are equal', () => {
    const rig = new AmdRig();
    const entries = Array.from({ length: 8 }, (_, i) => LOWEST + (8 + i) * 8);
    for (const at of entries) putEntry(rig.ram, at, 0x203000, 7);
    rig.submit(invalidateAll());
    expect(rig.held()).to.deep.equal([...TRANSLATED, '0x8000>0x200000+0x8000/3']);
    putEntry(rig.ram, entries[3] as number, 0x303000, 7);
    rig.submit(invalidatePage(0xb000));
    expect(rig.held()).to.include('0xb000>0x303000+0x1000/3');
    expect(rig.held()).to.include('0xa000>0x202000+0x1000/3');
    expect(rig.space.audit()).to.deep.equal([]);
  });

  it('lets devices read or write alone behind mode 0 with one permission', () => {
    const rig = new AmdRig();
    putDevice(rig.ram, DEVICE, { low: amdvi.DTE_V | amdvi.DTE_TV, high: amdvi.IR });
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.held()).to.deep.equal(['0x0>0x0+0x2000000/1']);
    expect(rig.iommu.translate(DEVICE, 0x5000 as Iova, true)).to.include({ ok: false, reason: 2 });
  });

  it('shows the exclusion range as system memory, to all devices or to those with EX, also when it moves', () => {
    const rig = new AmdRig();
    rig.write(amdvi.EXCLUSION_LIMIT_REG, 0x4000n);
    rig.write(amdvi.EXCLUSION_BASE_REG, 0x3000n | amdvi.EXCLUSION_ENABLE);
    expect(rig.held()).to.deep.equal(TRANSLATED);
    putDevice(rig.ram, DEVICE, { flags: amdvi.DTE_EX });
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.held()).to.deep.equal(['0x3000>0x3000+0x2000/3', ...TRANSLATED]);
    rig.write(amdvi.EXCLUSION_LIMIT_REG, 0x5000n);
    expect(rig.held()).to.deep.equal(['0x3000>0x3000+0x3000/3']);
    expect(rig.iommu.translate(DEVICE, 0x5008 as Iova, true)).to.include({ ok: true, gpa: 0x5008 });
    putDevice(rig.ram, DEVICE);
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.held()).to.deep.equal(TRANSLATED);
    rig.write(amdvi.EXCLUSION_BASE_REG, 0x3000n | amdvi.EXCLUSION_ENABLE | amdvi.EXCLUSION_ALLOW);
    expect(rig.held()).to.deep.equal(['0x3000>0x3000+0x3000/3']);
    expect(rig.space.audit()).to.deep.equal([]);
  });

  it('cuts a large page at the exclusion range', () => {
    const rig = new AmdRig();
    putEntry(rig.ram, LOWEST - 4096, 0x400000, 0);
    putDevice(rig.ram, DEVICE, { flags: amdvi.DTE_EX });
    rig.write(amdvi.EXCLUSION_LIMIT_REG, 0x4000n);
    rig.write(amdvi.EXCLUSION_BASE_REG, 0x3000n | amdvi.EXCLUSION_ENABLE);
    rig.submit(invalidateDevice(DEVICE), invalidateAll());
    expect(rig.held()).to.deep.equal([
      '0x0>0x400000+0x3000/3',
      '0x3000>0x3000+0x2000/3',
      '0x5000>0x405000+0x1fb000/3',
    ]);
    expect(rig.space.audit()).to.deep.equal([]);
  });

  it('keeps the interrupt range out of containers', () => {
    const rig = new AmdRig();
    putEntry(rig.ram, LOWEST - 2 * 4096 + 3 * 8, LOWEST - 4096, 2);
    putEntry(rig.ram, LOWEST - 4096 + 0x1f7 * 8, 0x400000, 0);
    rig.submit(invalidateAll());
    expect(rig.held()).to.include('0xfef00000>0x500000+0x100000/3');
    expect(rig.notifier.mappingAt(0xfeefffff)).to.equal(undefined);
    expect(rig.space.audit()).to.deep.equal([]);
    expect(rig.iommu.translate(DEVICE, 0xfee00000 as Iova, true)).to.include({ ok: true, gpa: 0xfee00000 });
  });

  it('drops events that do not fit, and register commands beyond the limit', async () => {
    const rig = new AmdRig();
    for (let i = 0; i < 300; i++) rig.iommu.translate(DEVICE, 0x9000 as Iova, false);
    expect(rig.faults).to.have.length(300);
    expect(rig.read(amdvi.STATUS_REG) & 0xfn).to.equal(3n);
    expect(rig.read(amdvi.EVENT_TAIL_REG)).to.equal(0xff0n);
    expect(rig.ram.read32(EVENTS + 0xff8)).to.equal(0);
    rig.notifier.hold();
    for (let i = 0; i < 200; i++) rig.write(amdvi.CONTROL_REG, i % 2 === 0 ? 0n : CONTROL.IOMMU_EN);
    expect(rig.iommu.counters.droppedCommands).to.be.above(100);
    rig.notifier.release();
    await rig.iommu.quiesce(() => {});
  });

  it('attaches a device to the current translations, and none after its detachment', () => {
    const rig = new AmdRig();
    putDevice(rig.ram, 0x28);
    rig.submit(invalidateDevice(0x28));
    const notifier = new RecordingNotifier(rig.ram);
    rig.iommu.attach(new DeviceAddressSpace(0x28, notifier, rig.ram.regions));
    expect(notifier.mappings).to.have.length(1);
    rig.iommu.detach(0x28);
    rig.ram.write32(LOWEST + 5 * 8, 0);
    rig.submit(invalidatePage(0x5000));
    expect(notifier.mappings).to.have.length(1);
    expect(rig.held()).to.deep.equal([]);
  });

  it('has the configuration space of its PCI function behind the registers, and sends its MSI', () => {
    const rig = new AmdRig();
    const header = Number(rig.iommu.readRegister(amdvi.CONFIG_OFFSET + amdvi.CAPABILITY.HEADER, 4));
    expect(header & 0xff).to.equal(amdvi.CAPABILITY.ID);
    expect(header & amdvi.CAPABILITY.NP_CACHE).to.not.equal(0);
    rig.write(amdvi.CONFIG_OFFSET + 0x64, 0xfee01000n, 4);
    rig.write(amdvi.CONFIG_OFFSET + 0x6c, 0x41n, 4);
    rig.write(amdvi.CONFIG_OFFSET + 0x60, 0x10000n, 4);
    rig.submit(waitCommand(1, amdvi.WAIT_S | amdvi.WAIT_I));
    expect(rig.messages).to.deep.equal([]);
    rig.write(amdvi.CONTROL_REG, RUNNING | CONTROL.COM_WAIT_INT_EN);
    rig.submit(waitCommand(1, amdvi.WAIT_S | amdvi.WAIT_I));
    expect(rig.messages).to.deep.equal([[0xfee01000, 0x41]]);
  });
});
