import { expect } from 'chai';
import { describe, it } from 'mocha';
import {
  DMA_FAULT,
  DMA_OK,
  DMA_RETRY,
  type Gpa,
  HarnessViolationError,
  type Hpa,
  type Iova,
  PAGE_SIZE,
  PERM_READ,
  PERM_RW,
  PERM_WRITE,
} from '../../src/index.ts';
import { buildDevice as build } from '../fixtures/built-device.ts';

describe('interrupts of a model', () => {
  it('violates its contract by a vector that it does not have, and no other vector is raised', () => {
    const { bus, context } = build(undefined, 2);
    for (const vector of [2, 3, 31, 32, -1, 0.5]) context.interrupt(vector);
    expect(bus.interrupts).to.deep.equal([]);
    expect(bus.violations[0]).to.equal('bad-interrupt: raises interrupt 2; accepted: 0 to 1');
    expect(() => bus.assertClean()).to.throw(HarnessViolationError, /6 violations/);
    context.interrupt(1);
    expect(bus.interrupts).to.deep.equal([1]);
  });

  it('sends no message without Bus Master Enable, and keeps none for later', () => {
    const { bus, context } = build(undefined, 4);
    bus.writeConfig(4, 2, 2n);
    context.interrupt(1);
    bus.writeConfig(4, 2, 6n);
    expect(bus.interrupts).to.deep.equal([]);
    context.interrupt(2);
    expect(bus.interrupts).to.deep.equal([2]);
    bus.close();
  });
});

describe('a BAR of a model', () => {
  it('answers no access while its space is disabled', () => {
    const { bus } = build();
    bus.write(2, 8, 4, 5);
    bus.writeConfig(4, 2, 0n);
    expect(bus.read(2, 8, 4)).to.equal(0xffff_ffffn);
    bus.write(2, 8, 4, 6);
    bus.writeConfig(4, 2, 6n);
    expect(bus.read(2, 8, 4)).to.equal(5n);
  });

  it('has answers of the size that was asked for', () => {
    const { bus, context } = build();
    context.bar(2).read = () => 0x1_0000n;
    expect([bus.read(2, 8, 4), bus.read(2, 8, 2)]).to.deep.equal([0x1_0000n, 0xffffn]);
    expect(bus.violations.map((text) => text.split(':')[0])).to.deep.equal(['bad-answer']);
  });
});

describe('DMA of a model', () => {
  it('translates, pins and faults according to the map', () => {
    const { bus, context } = build((given) => ({ dmaUnmap: (iova) => given.dma.unpin(iova) }));
    const { dma } = context;
    const page = (2 * PAGE_SIZE) as Iova;
    bus.unmap(page, PAGE_SIZE);
    bus.map({ iova: page, gpa: 0, size: PAGE_SIZE, perm: PERM_READ });
    const hpa = bus.ram.hpaOf(5) as number;
    expect(dma.translate((page + 5) as Iova, PERM_READ)).to.equal(hpa);
    expect(dma.translate(page, PERM_WRITE)).to.equal(-DMA_FAULT);
    bus.switching(true);
    expect(dma.translate(0x5000_0000 as Iova, PERM_READ)).to.equal(-DMA_RETRY);
    bus.switching(false);
    expect(bus.faults, 'no fault by translation requests').to.deep.equal([]);
    expect(dma.pin(page, PERM_READ) * PAGE_SIZE).to.equal(hpa - 5);
    expect([bus.unmap(page, PAGE_SIZE), bus.heldPins]).to.deep.equal([1, 0]);
    expect(bus.violations).to.deep.equal([]);
  });

  it('finds pages that are mapped far apart', () => {
    const { bus, context } = build();
    const iovaOf = (i: number) => ((i + 1) * 2 ** 30) as Iova;
    for (let i = 0; i < 1000; i++)
      bus.map({ iova: iovaOf(i), gpa: i * PAGE_SIZE, size: PAGE_SIZE, perm: PERM_READ });
    for (const i of [0, 500, 999])
      expect(context.dma.translate(iovaOf(i), PERM_READ)).to.equal(bus.ram.hpaOf(i * PAGE_SIZE));
  });

  it('faults beyond the address space, and reports an invalid address as a violation', () => {
    const { bus, context } = build();
    expect(context.dma.read((2 ** 64) as Iova, new Uint8Array(4))).to.equal(DMA_FAULT);
    expect(bus.faults).to.deep.equal([{ iova: Number.MAX_SAFE_INTEGER, write: false, denied: false }]);
    expect(context.dma.pin(Number.NaN as Iova, PERM_RW)).to.equal(-DMA_FAULT);
    expect(context.dma.pin(0 as Iova, 0)).to.equal(-DMA_FAULT);
    expect(bus.violations).to.have.length(2);
  });

  it('reports pins kept during an unmap or at the end as violations', () => {
    const { bus, context } = build();
    context.dma.pin(0 as Iova, PERM_RW);
    context.dma.pin(PAGE_SIZE as Iova, PERM_RW);
    bus.unmap(0, PAGE_SIZE);
    expect(() => bus.close()).to.throw(
      HarnessViolationError,
      /2 violations:\n {2}never-unpins: .*\n {2}leaked/,
    );
    const kinds = bus.violations.splice(0).map((text) => text.split(':')[0]);
    expect(kinds).to.deep.equal(['never-unpins', 'leaked-pins']);
    bus.assertClean();
  });

  it('is refused without Bus Master Enable, also on pages that are pinned', () => {
    const { bus, context } = build();
    const { dma } = context;
    const bytes = Uint8Array.of(1, 2, 3, 4);
    const hpa = (dma.pin(0 as Iova, PERM_RW) * PAGE_SIZE) as Hpa;
    const use = () => [
      dma.write(0x100 as Iova, bytes),
      dma.read(0 as Iova, new Uint8Array(4)),
      dma.write64(0x100 as Iova, 5, 6),
      dma.translate(0 as Iova, PERM_READ) > 0,
    ];
    bus.ram.write(0 as Gpa, bytes);
    const before = bus.ram.read(0 as Gpa, PAGE_SIZE);
    bus.writeConfig(4, 2, 2n);
    expect(use()).to.deep.equal([DMA_FAULT, DMA_FAULT, DMA_FAULT, false]);
    dma.fillPinned(hpa, 64, 0x0101_0101);
    dma.copyPinned((hpa + 64) as Hpa, hpa, 64);
    expect(bus.ram.read(0 as Gpa, PAGE_SIZE), 'RAM is unchanged').to.deep.equal(before);
    expect(dma.crc32Pinned(hpa, 64, 7), 'no byte is read').to.equal(7);
    expect(bus.faults, 'no request leaves the function').to.deep.equal([]);
    expect(bus.logged).to.deep.equal(['DMA is refused: the guest keeps Bus Master Enable at 0']);
    bus.writeConfig(4, 2, 6n);
    expect(use()).to.deep.equal([DMA_OK, DMA_OK, DMA_OK, true]);
    dma.unpin(0 as Iova);
    bus.close();
  });
});
