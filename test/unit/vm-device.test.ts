/**
 * The coordinator's part of a device: its end, what then still answers, and the reasons of its DMA faults.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Prng } from '#host';
import { DeviceState } from '../../src/channel/device-link.ts';
import { type DeviceOwner, VmDevice } from '../../src/coordinator/vm/device.ts';
import { faultRecord } from '../../src/coordinator/vm/dma-fault.ts';
import { type Hpa, type Iova, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { BusMemory } from '../../src/memory/bus-memory.ts';
import { GuestRam, MMIO_HOLE_START } from '../../src/memory/guest-ram.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { PinTableReader } from '../../src/pin-table/reader.ts';
import { NoIommu } from '../../src/viommu/none.ts';

const MIB = 2 ** 20;

function rig() {
  const ram = GuestRam.allocate(HPA_BASE as Hpa, 2 * MIB, 2 * MIB, new Prng(1));
  const sent: Uint8Array[] = [];
  const owner: DeviceOwner = {
    header: (device) => ({ timeUs: 0, process: 0, vm: 0, device }),
    sent: (bytes) => void sent.push(bytes),
    switched: () => {},
    quarantine: async () => {},
    lose: (error) => expect.fail(String(error)),
  };
  const device = new VmDevice(0, 'vm0/gpu0', 8, new BusMemory(ram, true), owner);
  const reader = new PinTableReader(device.table.sab, device.slot);
  return { ram, device, reader, sent };
}

describe('a device that fails', () => {
  it('releases its pins, and nothing waits for it any more', async () => {
    const { device, reader } = rig();
    device.link.setState(DeviceState.ready);
    device.container.map(0 as Iova, 0, 4 * PAGE_SIZE, PERM_RW);
    reader.pin(0, PERM_READ);
    reader.pin(PAGE_SIZE, PERM_READ);
    reader.enter();
    expect([device.alive, device.isReady]).to.deep.equal([true, true]);
    const asked = device.control.setState(1).catch((error: Error) => error.message);
    const read = device.link.mmioPort().read(0, 0, 4);
    await Promise.resolve();
    expect(device.fail('crashed')).to.equal(2);
    expect(await asked).to.equal('vm0/gpu0 is lost: crashed');
    expect(await read, 'all ones').to.equal(0xffff_ffffn);
    expect([device.alive, device.isReady, device.failure]).to.deep.equal([false, false, 'crashed']);
    expect(device.container.unmapAll(), 'an unmap does not wait').to.equal(undefined);
  });

  it('is not alive from the moment that its host removes it', () => {
    const { device } = rig();
    device.leaving = 'the host removes it';
    expect(device.alive).to.equal(false);
  });

  it('is lost at the last host if it arrives so', () => {
    const { device } = rig();
    device.arriveLost('crashed there');
    expect([device.alive, device.loss, device.failure]).to.deep.equal([false, 'earlier', 'crashed there']);
  });

  it('has its frames traced only if they were sent', () => {
    const { device, sent } = rig();
    let count = 0;
    while (device.send('dmaUnmap', { iova: 0, size: PAGE_SIZE })) count++;
    expect([count > 1, sent.length]).to.deep.equal([true, count]);
  });
});

describe('the reason of a DMA fault', () => {
  const textOf = (
    iova: number,
    denied = false,
    prepare: (parts: ReturnType<typeof rig>) => void = () => {},
  ) => {
    const parts = rig();
    prepare(parts);
    const iommu = new NoIommu(parts.ram);
    const translate = iommu.translate.bind(iommu);
    // As tables would that lead there.
    iommu.translate = (id, at) =>
      at >= MMIO_HOLE_START && at < 2 ** 32
        ? { ok: true, gpa: at as never, perm: PERM_RW }
        : translate(id, at);
    return faultRecord({ iommu, ram: parts.ram }, parts.device.space, { iova, write: true, denied });
  };

  it('is that of the vIOMMU, or says where the address leads', () => {
    expect(textOf(2 ** 40)).to.deep.equal({
      ...{ requesterId: 8, iova: 2 ** 40, write: true, reason: 0, text: 'not guest RAM' },
    });
    expect(textOf(MMIO_HOLE_START, true).text).to.match(/is no guest RAM, which alone can be pinned/);
    expect(textOf(MMIO_HOLE_START).text).to.match(/no other device decodes/);
    expect(textOf(0xfff0_0000).text).to.equal('(0xfff00000 is not guest RAM)');
    expect(textOf(0x1000).text).to.match(/no invalidation has announced/);
    expect(textOf(0x1000, true).text, 'a permission').to.match(/no invalidation has announced/);
  });

  it('is the limit of a container that has no room', () => {
    const { text } = textOf(0x1000, false, ({ device }) => {
      void device.space.enterSystem();
      void device.container.unmapAll();
      device.container.refusal = () => new Error('ENOSPC: full') as never;
    });
    expect(text).to.equal('(the container refuses the mapping: ENOSPC: full)');
  });
});
