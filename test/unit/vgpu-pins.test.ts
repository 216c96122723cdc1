/**
 * Pins of the vgpu: in the shadow page table, during a switch, and under injected faults.
 */
import { crc32 } from 'node:zlib';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { CONTROL_RESET, CompletionStatus, Opcode, STATUS_RUNNING } from '../../src/abi/vgpu/vgpu.ts';
import { type Iova, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { SHADOW_LIMIT } from '../../src/models/vgpu/mmu/shadow-page-table.ts';
import { DATA, fillWithPattern, gpuBytes, vgpuWithData } from '../fixtures/vgpu-data.ts';
import { TABLE } from '../fixtures/vgpu-layout.ts';
import { RAM_BYTES, type VgpuRig } from '../fixtures/vgpu-rig.ts';

const { ok, fault } = CompletionStatus;

describe('vgpu pins', () => {
  it('exist for shadowed pages, until dmaUnmap and a new translation', async () => {
    const gpu = vgpuWithData();
    gpu.run({ opcode: Opcode.fill, length: 4 * PAGE_SIZE, value: 1 });
    expect(gpu.dma.heldPins).to.equal(4);
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.asked).to.deep.equal([[0x100000, 0x10000]]);
    expect(gpu.dma.heldPins).to.equal(0);
    // The same IOVAs on other memory; the next fill must write there.
    gpu.container.map(0x100000 as Iova, 0x200000, 0x10000, PERM_RW);
    expect(gpu.run({ opcode: Opcode.fill, length: 4, value: 2 })).to.include({ status: ok });
    expect(gpu.ram.read32(DATA[0] as number)).to.equal(1);
    expect(gpu.ram.read32((DATA[0] as number) + 0x100000)).to.equal(2);
    expect(gpu.violations).to.deep.equal([]);
  });

  it('stay outside the range of a dmaUnmap', () => {
    const gpu = vgpuWithData();
    gpu.run({ opcode: Opcode.fill, length: 4 * PAGE_SIZE });
    gpu.model.dmaUnmap(0x101000 as Iova, 0x1000);
    expect(gpu.dma.heldPins, 'page 0x102000 lies behind').to.equal(3);
    gpu.model.dmaUnmap(0x101000 as Iova, 0x2000);
    expect(gpu.dma.heldPins).to.equal(2);
    gpu.model.dmaUnmap(0 as Iova, 2 ** 40);
    expect(gpu.dma.heldPins).to.equal(0);
  });

  it('follow a changed GPU page only after TlbInvalidate', () => {
    const gpu = vgpuWithData();
    gpu.run({ opcode: Opcode.fill, length: 4, value: 1 });
    gpu.pte(0, 0x140000);
    gpu.run({ opcode: Opcode.fill, length: 4, value: 2 });
    expect([gpu.ram.read32(DATA[0] as number), gpu.ram.read32(0x140000)]).to.deep.equal([2, 0]);
    gpu.set('TlbInvalidate', 1);
    expect(gpu.dma.heldPins).to.equal(0);
    gpu.run({ opcode: Opcode.fill, length: 4, value: 3 });
    expect([gpu.ram.read32(DATA[0] as number), gpu.ram.read32(0x140000)]).to.deep.equal([2, 3]);
  });

  it('count once for a page that is read and then written', () => {
    const gpu = vgpuWithData();
    gpu.run({ opcode: Opcode.checksum, length: 4 });
    gpu.run({ opcode: Opcode.fill, length: 4 });
    expect(gpu.dma.heldPins).to.equal(1);
    expect(gpu.container.pins()).to.equal(1);
  });

  it('are never used after release when a copy inside one page raises the permission', () => {
    const gpu = vgpuWithData();
    gpu.run({ opcode: Opcode.checksum, length: 4 });
    // The page is shadowed for reads. The write pins it again, at another address.
    gpu.pte(0, 0x140000);
    gpu.ram.write32(0x140000, 0x1234_5678);
    expect(gpu.run({ opcode: Opcode.copy, source: 0, target: 64, length: 4 })).to.include({ status: ok });
    expect(gpu.violations).to.deep.equal([]);
    expect(gpu.ram.read32(0x140040)).to.equal(0x1234_5678);
  });

  it('are dropped at a reset, at a new page table, and at close', () => {
    const ways: ((gpu: VgpuRig) => void)[] = [
      (gpu) => gpu.set('Control', CONTROL_RESET),
      (gpu) => gpu.set('PageTableBase', TABLE),
      (gpu) => gpu.model.close(),
    ];
    for (const way of ways) {
      const gpu = vgpuWithData();
      gpu.run({ opcode: Opcode.fill, length: 4 * PAGE_SIZE });
      way(gpu);
      expect(gpu.dma.heldPins).to.equal(0);
      expect(gpu.container.pins()).to.equal(0);
    }
  });

  it('are all dropped for a page at several GPU addresses', () => {
    const gpu = vgpuWithData();
    for (let page = 0; page < 4; page++) gpu.pte(page * PAGE_SIZE, DATA[0] as number);
    gpu.run({ opcode: Opcode.fill, length: 4 * PAGE_SIZE });
    expect(gpu.dma.heldPins).to.equal(4);
    gpu.model.dmaUnmap(DATA[0] as Iova, PAGE_SIZE);
    expect(gpu.dma.heldPins).to.equal(0);
  });

  it('stay while many others come and go', () => {
    const gpu = vgpuWithData();
    for (let page = 0; page < 256; page++) gpu.pte(page * PAGE_SIZE, 0x100000 + page * PAGE_SIZE);
    const [rounds, length] = [SHADOW_LIMIT / 256 - 1, 256 * PAGE_SIZE];
    for (let round = 0; round < rounds; round++) {
      gpu.run({ opcode: Opcode.fill, length });
      gpu.model.dmaUnmap(0x100000 as Iova, length);
    }
    expect(gpu.dma.heldPins).to.equal(0);
    gpu.run({ opcode: Opcode.fill, length });
    expect(gpu.dma.heldPins).to.equal(256);
    gpu.run({ opcode: Opcode.nop });
    expect(gpu.dma.heldPins).to.equal(256);
  });
});

describe('vgpu during a switch of its address space', () => {
  it('stalls without a fault, then continues without loss', async () => {
    const gpu = vgpuWithData();
    fillWithPattern(gpu);
    // Longer than a step, so that the switch occurs in the middle.
    for (let page = 4; page < 40; page++) gpu.pte(page * PAGE_SIZE, 0x400000 + page * PAGE_SIZE);
    for (let page = 0; page < 40; page++) gpu.pte((40 + page) * PAGE_SIZE, 0x500000 + page * PAGE_SIZE);
    const length = 40 * PAGE_SIZE;
    const slot = gpu.submit({ opcode: Opcode.copy, source: 0, target: 40 * PAGE_SIZE, length });
    const after = gpu.submit({ opcode: Opcode.checksum, source: 40 * PAGE_SIZE, length });
    gpu.set('RingTail', gpu.tails.copy);
    expect(gpu.steps(3)).to.equal('more');
    expect(gpu.model.counters.bytesCopied).to.be.within(1, length - 1);
    gpu.container.setSwitching(true);
    await gpu.container.unmapAll();
    expect(gpu.dma.heldPins).to.equal(0);
    for (let i = 0; i < 3; i++) expect(gpu.steps()).to.equal('stalled');
    for (let at = 0; at < RAM_BYTES; at += 0x200000) gpu.container.map(at as Iova, at, 0x200000, PERM_RW);
    gpu.container.setSwitching(false);
    expect(gpu.steps()).to.equal('idle');
    expect(gpu.completion(slot)).to.include({ status: ok });
    const source = gpuBytes(gpu, 0, 4 * PAGE_SIZE);
    expect(Buffer.from(gpu.ram.read(0x500000, 4 * PAGE_SIZE)).equals(source)).to.equal(true);
    expect(gpu.completion(after)).to.include({ status: ok, result: crc32(gpu.ram.read(0x500000, length)) });
    expect(gpu.model.counters.bytesCopied, 'each byte once').to.equal(length);
    expect(gpu.faults).to.deep.equal([]);
    expect(gpu.violations).to.deep.equal([]);
  });

  it('stalls at the ring and at the completion as well', async () => {
    for (const stepsBefore of [0, 1]) {
      const gpu = vgpuWithData();
      const slot = gpu.submit({ opcode: Opcode.nop });
      gpu.set('RingTail', gpu.tails.copy);
      if (stepsBefore > 0) expect(gpu.model.step()).to.equal('more');
      gpu.container.setSwitching(true);
      await gpu.container.unmapAll();
      expect(gpu.steps()).to.equal('stalled');
      gpu.container.map(0 as Iova, 0, RAM_BYTES, PERM_RW);
      gpu.container.setSwitching(false);
      expect(gpu.steps()).to.equal('idle');
      expect(gpu.completion(slot)).to.include({ status: ok, sequence: 1 });
      expect(gpu.get('Status')).to.equal(STATUS_RUNNING);
    }
  });

  it('reports a miss after the switch as a fault', async () => {
    const gpu = vgpuWithData();
    gpu.container.setSwitching(true);
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    const slot = gpu.submit({ opcode: Opcode.fill, length: 4 });
    expect(gpu.go()).to.equal('stalled');
    gpu.container.setSwitching(false);
    expect(gpu.steps()).to.equal('idle');
    expect(gpu.completion(slot)).to.include({ status: fault });
    expect(gpu.faults).to.have.length(1);
  });
});

describe('vgpu with an injected fault', () => {
  it('is detected when it uses unpinned pages (stale-translation)', async () => {
    const gpu = vgpuWithData('stale-translation');
    gpu.run({ opcode: Opcode.fill, length: 4, value: 1 });
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.quarantines).to.deep.equal([]);
    expect(gpu.dma.heldPins).to.equal(0);
    expect(gpu.run({ opcode: Opcode.fill, length: 4, value: 2 })).to.include({ status: ok });
    expect(gpu.violations).to.include('use-after-unpin');
    expect(gpu.ram.read32(DATA[0] as number), 'the stale write').to.equal(2);
  });

  it('is quarantined when it keeps its pins (never-unpin)', async () => {
    const gpu = vgpuWithData('never-unpin');
    gpu.run({ opcode: Opcode.fill, length: 4 });
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.dma.heldPins).to.equal(1);
    expect(gpu.quarantines).to.deep.equal(['never-unpins']);
  });

  it('ends its thread under load in the middle of a command, with pins held (worker-crash)', () => {
    const gpu = vgpuWithData('worker-crash');
    const exit = process.exit;
    process.exit = () => {
      throw new Error('the thread ends here');
    };
    try {
      const load = () => {
        for (let i = 0; i < 100; i++) gpu.run({ opcode: Opcode.fill, length: 2 * PAGE_SIZE });
      };
      expect(load).to.throw('the thread ends here');
    } finally {
      process.exit = exit;
    }
    expect(gpu.model.counters.commands).to.be.within(1, 99);
    expect(gpu.model.counters.bytesFilled % (2 * PAGE_SIZE)).to.equal(PAGE_SIZE);
    expect(gpu.dma.heldPins).to.be.greaterThan(0);
  });

  it('has no violation without a fault', async () => {
    const gpu = vgpuWithData();
    gpu.run({ opcode: Opcode.fill, length: 4 });
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.run({ opcode: Opcode.fill, length: 4 })).to.include({ status: fault });
    expect(gpu.violations).to.deep.equal([]);
    expect(gpu.quarantines).to.deep.equal([]);
  });
});
