/**
 * Refused DMA leaves no trace in memory, and the ledger of a device's pins.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DeviceDma, DMA_FAULT, DMA_RETRY } from '../../src/device/dma.ts';
import {
  type Hpa,
  type Iova,
  PAGE_2M,
  PAGE_SIZE,
  PERM_READ,
  PERM_RW,
  PERM_WRITE,
} from '../../src/memory/address.ts';
import { MMIO_HOLE_START } from '../../src/memory/guest-ram.ts';
import { HostMemory, HPA_BASE } from '../../src/memory/host-memory.ts';
import { containerRig } from '../fixtures/container-fakes.ts';

const FRAMES = 2;

/** A device's DMA. Its memory has only the first of the two host frames that the container can map. */
function dmaRig() {
  const rig = containerRig({ frames: FRAMES, log: true });
  const faults: [iova: number, write: boolean, denied: boolean][] = [];
  const violations: string[] = [];
  const memory = HostMemory.allocate(HPA_BASE as Hpa, FRAMES * PAGE_2M);
  const observer = {
    fault: (iova: number, write: boolean, denied: boolean) => void faults.push([iova, write, denied]),
    violation: (kind: string, detail: string) => void violations.push(`${kind}: ${detail}`),
  };
  const reader = rig.user.reader;
  const dma = new DeviceDma(reader, memory, observer);
  const hpaOf = (vaddr: number) => rig.backing.hpaOf(vaddr) as Hpa;
  const bytesAt = (vaddr: number, length: number) => {
    const bytes = new Uint8Array(length);
    memory.read(hpaOf(vaddr), bytes, 0, length);
    return [...bytes];
  };
  return { ...rig, reader, memory, dma, faults, violations, hpaOf, bytesAt };
}

describe('a DMA write that is refused', () => {
  it('changes no byte of a read-only page, and those before it once', () => {
    const { container, dma, faults, bytesAt } = dmaRig();
    container.map(0 as Iova, 0, PAGE_SIZE, PERM_RW);
    container.map(PAGE_SIZE as Iova, PAGE_SIZE, PAGE_SIZE, PERM_READ);
    expect(dma.write((PAGE_SIZE - 2) as Iova, Uint8Array.of(1, 2, 3, 4))).to.equal(DMA_FAULT);
    expect(dma.write((PAGE_SIZE + 8) as Iova, Uint8Array.of(5))).to.equal(DMA_FAULT);
    expect(bytesAt(PAGE_SIZE - 2, 4)).to.deep.equal([1, 2, 0, 0]);
    expect(bytesAt(PAGE_SIZE + 8, 1)).to.deep.equal([0]);
    expect(faults).to.deep.equal([
      [PAGE_SIZE, true, true],
      [PAGE_SIZE + 8, true, true],
    ]);
  });
});

describe('an access that meets a switch', () => {
  it('is repeated later, whether the switch runs or has run meanwhile', () => {
    const { container, reader, dma, faults } = dmaRig();
    container.setSwitching(true);
    expect(dma.read(0 as Iova, new Uint8Array(4))).to.equal(DMA_RETRY);
    container.setSwitching(false);
    // A whole switch runs between the load of the sequence and the end of the second lookup.
    const exit = reader.exit.bind(reader);
    let sections = 0;
    reader.exit = () => {
      exit();
      if (++sections !== 2) return;
      container.setSwitching(true);
      container.setSwitching(false);
    };
    expect(dma.read(0 as Iova, new Uint8Array(4))).to.equal(DMA_RETRY);
    expect(faults).to.deep.equal([]);
    expect(dma.read(0 as Iova, new Uint8Array(4))).to.equal(DMA_FAULT);
  });
});

describe('the ledger of pins', () => {
  it('notices an access to a page after its last unpin, also to the second page of a range', () => {
    const { container, dma, violations, hpaOf } = dmaRig();
    container.map(0 as Iova, 0, 4 * PAGE_SIZE, PERM_RW);
    for (const page of [0, 1, 1]) dma.pin((page * PAGE_SIZE) as Iova, PERM_RW);
    dma.unpin(PAGE_SIZE as Iova);
    dma.copyPinned(hpaOf(PAGE_SIZE - 64), hpaOf(0), 128);
    expect(violations).to.deep.equal([]);
    dma.unpin(PAGE_SIZE as Iova);
    dma.copyPinned(hpaOf(PAGE_SIZE - 64), hpaOf(0), 128);
    dma.fillPinned(hpaOf(PAGE_SIZE), 64, 0);
    expect(violations.map((text) => text.split(',')[0])).to.deep.equal([
      `use-after-unpin: writes to HPA 0x${hpaOf(PAGE_SIZE).toString(16)}`,
      `use-after-unpin: writes to HPA 0x${hpaOf(PAGE_SIZE).toString(16)}`,
    ]);
    dma.unpin(PAGE_SIZE as Iova);
    expect(violations[2]).to.equal('unbalanced-unpin: unpins IOVA 0x1000, which it has not pinned');
    expect([dma.heldPins, container.pins()]).to.deep.equal([1, 1]);
  });

  it('has pages outside the memory, too', () => {
    const { table, dma, violations } = dmaRig();
    const hpa = (HPA_BASE + 64 * PAGE_2M) as Hpa;
    table.map(0 as Iova, hpa, PAGE_SIZE, PERM_RW);
    expect(dma.pin(0 as Iova, PERM_WRITE) * PAGE_SIZE).to.equal(hpa);
    dma.pin(0 as Iova, PERM_WRITE);
    dma.unpin(0 as Iova);
    const use = () => dma.crc32Pinned(hpa, 1, 0);
    expect(use, 'the memory itself is elsewhere').to.throw('lies outside');
    expect([violations, dma.heldPins]).to.deep.equal([[], 1]);
    dma.unpin(0 as Iova);
    expect(use).to.throw('lies outside');
    expect(violations).to.have.length(1);
  });

  it('has no pin of another device’s BAR, which is refused without a trace', () => {
    const { table, dma, faults } = dmaRig();
    table.map(0 as Iova, MMIO_HOLE_START as Hpa, PAGE_SIZE, PERM_RW);
    expect(dma.pin(0 as Iova, PERM_RW)).to.equal(-DMA_FAULT);
    expect(dma.pinPages(0 as Iova, PERM_RW, new Int32Array(1))).to.equal(DMA_FAULT);
    expect([dma.heldPins, table.pins(0 as Iova, PAGE_SIZE)]).to.deep.equal([0, 0]);
    expect(faults).to.deep.equal([
      [0, true, true],
      [0, true, true],
    ]);
  });
});
