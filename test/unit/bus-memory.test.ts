import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Prng } from '#host';
import { DeviceLink, DeviceState } from '../../src/channel/device-link.ts';
import { PeerPort } from '../../src/channel/peer-port.ts';
import { DeviceDma, DMA_FAULT, DMA_OK, DMA_RETRY } from '../../src/device/dma.ts';
import {
  FOUR_GIB,
  type Gpa,
  type Hpa,
  type Iova,
  PAGE_2M,
  PAGE_SIZE,
  PERM_READ,
  PERM_RW,
} from '../../src/memory/address.ts';
import { BusMemory } from '../../src/memory/bus-memory.ts';
import { GuestAddressError, GuestRam } from '../../src/memory/guest-ram.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { PinTableReader } from '../../src/pin-table/reader.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { Container } from '../../src/vfio/container.ts';
import { interposed } from '../fixtures/interleave.ts';

const BAR = 0x8100_0000;
const BAR_BYTES = 2 * PAGE_SIZE;
const WINDOW = 0x8000_0000;
const WINDOW_END = 0xfec0_0000;

const guestRam = () => GuestRam.allocate(HPA_BASE as Hpa, PAGE_2M, PAGE_2M, new Prng(1));

describe('bus addresses of a device', () => {
  it('are RAM, and the window of the BARs in a VM of several devices', () => {
    const ram = guestRam();
    const [alone, several] = [new BusMemory(ram, false), new BusMemory(ram, true)];
    expect(alone.regions).to.deep.equal(ram.regions);
    expect(several.regions.map(({ gpa }) => gpa)).to.deep.equal([0, WINDOW, FOUR_GIB]);
    expect([alone.contains(WINDOW, PAGE_SIZE), alone.frameOf(WINDOW)]).to.deep.equal([false, -1]);
    const size = WINDOW_END - WINDOW;
    expect(several.contains(WINDOW, size)).to.equal(true);
    for (const gpa of [WINDOW - PAGE_SIZE, WINDOW + PAGE_SIZE]) {
      expect(several.contains(gpa, size), gpa.toString(16)).to.equal(false);
      expect(() => several.extents(gpa as Gpa, size)).to.throw(GuestAddressError);
    }
    expect(several.extents(WINDOW as Gpa, size)).to.deep.equal([{ hpa: WINDOW, size }]);
    expect(several.frameOf(BAR) * PAGE_SIZE).to.equal(BAR);
    for (const gpa of [0, FOUR_GIB]) expect(several.frameOf(gpa)).to.equal(ram.frameOf(gpa));
  });
});

/** A device with a page of RAM at IOVA 0 and 4 pages of the window behind it; its neighbour decodes two of them. */
function rig() {
  const ram = guestRam();
  const table = new PinTableWriter(64);
  const container = new Container(table, new BusMemory(ram, true));
  const reader = new PinTableReader(table.handle, table.addReader());
  const links = [new DeviceLink(), new DeviceLink()];
  const sabs = links.map(({ sab }) => sab);
  const [port, neighbour] = [new PeerPort(0, sabs, 500), new PeerPort(1, sabs)];
  links[1]?.setState(DeviceState.ready);
  neighbour.own.setBar(2, BAR, BAR_BYTES);
  const faults: [iova: number, denied: boolean][] = [];
  const dma = new DeviceDma(
    reader,
    ram.host,
    {
      fault: (iova, _write, denied) => void faults.push([iova, denied]),
      violation: (kind, detail) => expect.fail(`${kind}: ${detail}`),
    },
    () => true,
    port,
  );
  container.map(0 as Iova, 0, PAGE_SIZE, PERM_RW);
  container.map(PAGE_SIZE as Iova, BAR, 4 * PAGE_SIZE, PERM_RW);
  const memory = Buffer.alloc(BAR_BYTES);
  const serve = () =>
    neighbour.serve({
      peerAccess: ({ offset }, isWrite, bytes) => {
        if (isWrite) memory.set(bytes, offset);
        else bytes.set(memory.subarray(offset, offset + bytes.length));
      },
    });
  return { ram, container, dma, faults, memory, serve };
}

describe('DMA to the BAR of another device', () => {
  it('may begin in RAM, and faults where nothing decodes the address', async () => {
    const { ram, dma, faults, memory, serve } = rig();
    const bytes = Uint8Array.from({ length: 2 * PAGE_SIZE + 20 }, (_, i) => i % 251);
    const back = new Uint8Array(bytes.length);
    const at = (PAGE_SIZE - 20) as Iova;
    const { result } = await interposed('wait', serve, () => [dma.write(at, bytes), dma.read(at, back)]);
    expect(result).to.deep.equal([DMA_OK, DMA_OK]);
    expect(Buffer.from(ram.read(PAGE_SIZE - 20, 20)).equals(bytes.subarray(0, 20))).to.equal(true);
    expect(memory.equals(bytes.subarray(20))).to.equal(true);
    expect(Buffer.from(back).equals(bytes)).to.equal(true);
    const beyond = (3 * PAGE_SIZE) as Iova;
    expect(dma.read(beyond, new Uint8Array(4))).to.equal(DMA_FAULT);
    expect(faults).to.deep.equal([[beyond, false]]);
  });

  it('returns DMA_RETRY without a fault while the other device does not serve', () => {
    const { dma, faults } = rig();
    expect(dma.write(PAGE_SIZE as Iova, Uint8Array.of(1))).to.equal(DMA_RETRY);
    expect(faults).to.deep.equal([]);
  });

  it('cannot pin its pages, alone or behind pages of RAM', () => {
    const { container, dma, faults } = rig();
    const page = PAGE_SIZE as Iova;
    expect(dma.pin(page, PERM_READ)).to.equal(-DMA_FAULT);
    expect(dma.pinPages(0 as Iova, PERM_RW, new Int32Array(3))).to.equal(DMA_FAULT);
    expect(faults).to.deep.equal([
      [page, true],
      [page, true],
    ]);
    expect([dma.heldPins, container.pins()]).to.deep.equal([0, 0]);
    expect([dma.isPeer(0 as Iova), dma.isPeer(page), dma.isPeer(0x10_0000 as Iova)]).to.deep.equal([
      false,
      true,
      false,
    ]);
  });
});
