/**
 * Pins of many pages in one call, which pin all pages or none.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DeviceDma, DMA_FAULT, DMA_OK, DMA_RETRY } from '../../src/device/dma.ts';
import {
  type Hpa,
  type Iova,
  PAGE_2M,
  PAGE_SIZE,
  PERM_READ,
  PERM_RW,
  PERM_WRITE,
} from '../../src/memory/address.ts';
import { HostMemory, HPA_BASE } from '../../src/memory/host-memory.ts';
import { containerRig } from '../fixtures/container-fakes.ts';

const FRAMES = 4;

function dmaRig() {
  const rig = containerRig({ frames: FRAMES });
  const faults: number[] = [];
  const memory = HostMemory.allocate(HPA_BASE as Hpa, FRAMES * PAGE_2M);
  const dma = new DeviceDma(rig.user.reader, memory, {
    fault: (iova) => faults.push(iova),
    violation: (kind, detail) => expect.fail(`${kind}: ${detail}`),
  });
  return { ...rig, dma, faults };
}

describe('pins of many pages', () => {
  it('return every host page, for leaves of all sizes', () => {
    const { container, backing, dma } = dmaRig();
    container.map(0 as Iova, 0x1000, 5 * PAGE_SIZE, PERM_RW);
    container.map((5 * PAGE_SIZE) as Iova, 0, 15 * PAGE_SIZE, PERM_RW);
    container.map(PAGE_2M as Iova, PAGE_2M, PAGE_2M, PERM_RW);
    const frames = new Int32Array(20);
    expect(dma.pinPages(0x234 as Iova, PERM_WRITE, frames)).to.equal(DMA_OK);
    for (let i = 0; i < 20; i++)
      expect(frames[i]).to.equal(backing.frameOf(i < 5 ? 0x1000 + i * PAGE_SIZE : (i - 5) * PAGE_SIZE));
    expect(dma.pinPages((PAGE_2M + 8 * PAGE_SIZE) as Iova, PERM_WRITE, frames)).to.equal(DMA_OK);
    expect(frames[3]).to.equal(backing.frameOf(PAGE_2M + 11 * PAGE_SIZE));
    expect([dma.heldPins, container.pins()]).to.deep.equal([40, 40]);
    for (let i = 0; i < 20; i++) {
      dma.unpin((i * PAGE_SIZE) as Iova);
      dma.unpin((PAGE_2M + (8 + i) * PAGE_SIZE) as Iova);
    }
    expect([dma.heldPins, container.pins()]).to.deep.equal([0, 0]);
  });

  it('keep no pin when one page fails, and name that page', () => {
    const { container, dma, faults } = dmaRig();
    container.map(0 as Iova, 0, 4 * PAGE_SIZE, PERM_RW);
    container.map((4 * PAGE_SIZE) as Iova, 0x10000, PAGE_SIZE, PERM_READ);
    const frames = new Int32Array(6);
    expect(dma.pinPages(0 as Iova, PERM_WRITE, frames)).to.equal(DMA_FAULT);
    expect(dma.pinPages(0 as Iova, PERM_READ, frames)).to.equal(DMA_FAULT);
    expect(faults).to.deep.equal([4 * PAGE_SIZE, 5 * PAGE_SIZE]);
    container.setSwitching(true);
    expect(dma.pinPages(0 as Iova, PERM_READ, frames)).to.equal(DMA_RETRY);
    expect([dma.heldPins, container.pins()]).to.deep.equal([0, 0]);
    expect(dma.pinPages(0 as Iova, PERM_READ, new Int32Array(0))).to.equal(DMA_OK);
  });
});
