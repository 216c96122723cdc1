import { crc32 } from 'node:zlib';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import {
  COMMAND_LENGTH_LIMIT,
  CONTROL_ENABLE,
  CONTROL_RESET,
  CompletionStatus,
  GPU_PTE_PRESENT,
  GPU_VA_LIMIT,
  INTERRUPT_COMPLETION,
  INTERRUPT_FAULT,
  INTERRUPT_HALTED,
  Opcode,
  RING_ENTRIES_MAX,
  STATUS_HALTED,
  STATUS_RUNNING,
  VGPU_ID,
} from '../../src/abi/vgpu/vgpu.ts';
import { type Iova, PAGE_SIZE, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import { COMMAND_BUS_MASTER, COMMAND_MEMORY_SPACE } from '../../src/pci/config-space.ts';
import { COMPLETIONS, DIRECTORY, ENTRIES, RAM_BYTES, RING, TABLE, VgpuRig } from '../fixtures/vgpu-rig.ts';

/** Where the tests keep their data: four GPU pages, each on a page of its own, out of order. */
const DATA = [0x105000, 0x101000, 0x10f000, 0x102000];
const { ok, fault, badCommand } = CompletionStatus;

function rig(variant = ''): VgpuRig {
  const made = new VgpuRig(variant);
  DATA.forEach((iova, page) => {
    made.pte(page * PAGE_SIZE, iova);
  });
  made.enable();
  return made;
}

/** Bytes of GPU memory as the page table says, read by GPA. */
function gpuBytes({ ram }: VgpuRig, va: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++)
    bytes[i] = ram.read(
      (DATA[Math.floor((va + i) / PAGE_SIZE)] as number) + ((va + i) % PAGE_SIZE),
      1,
    )[0] as number;
  return bytes;
}

function scribble({ ram }: VgpuRig): void {
  for (const [page, iova] of DATA.entries())
    ram.write(
      iova,
      Uint8Array.from({ length: PAGE_SIZE }, (_, i) => (i * 7 + page * 31 + (i >> 8)) & 0xff),
    );
}

describe('vgpu commands', () => {
  it('identifies itself, and runs nothing before it is a bus master', () => {
    const gpu = rig();
    expect(gpu.get('Id')).to.equal(VGPU_ID);
    expect(gpu.get('Status')).to.equal(STATUS_RUNNING);
    gpu.model.config.registers.write(4, 2, BigInt(COMMAND_MEMORY_SPACE));
    const slot = gpu.submit({ opcode: Opcode.nop });
    expect(gpu.go()).to.equal('idle');
    expect(gpu.completion(slot).sequence).to.equal(0);
    gpu.model.config.registers.write(4, 2, BigInt(COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER));
    expect(gpu.steps()).to.equal('idle');
    expect(gpu.completion(slot)).to.deep.equal({ status: ok, result: 0, sequence: 1 });
  });

  it('fills across pages, and nothing around it', () => {
    const gpu = rig();
    scribble(gpu);
    const before = gpuBytes(gpu, 0, 4 * PAGE_SIZE);
    const [from, length] = [PAGE_SIZE - 8, 2 * PAGE_SIZE + 12];
    expect(gpu.run({ opcode: Opcode.fill, target: from, length, value: 0xcafe_f00d })).to.include({
      status: ok,
    });
    for (let at = from; at < from + length; at += 4) before.writeUInt32LE(0xcafe_f00d, at);
    expect(gpuBytes(gpu, 0, 4 * PAGE_SIZE).equals(before)).to.equal(true);
    expect(gpu.model.counters.bytesFilled).to.equal(length);
  });

  it('copies unaligned ranges that cross pages at different places', () => {
    const gpu = rig();
    scribble(gpu);
    const expected = gpuBytes(gpu, 0, 4 * PAGE_SIZE);
    const [source, target, length] = [5, 2 * PAGE_SIZE - 77, PAGE_SIZE + 1234];
    expect(gpu.run({ opcode: Opcode.copy, source, target, length })).to.include({ status: ok });
    expected.copy(expected, target, source, source + length);
    expect(gpuBytes(gpu, 0, 4 * PAGE_SIZE).equals(expected)).to.equal(true);
  });

  it('answers a checksum with the CRC-32 of the bytes', () => {
    const gpu = rig();
    scribble(gpu);
    for (const [source, length] of [
      [3, 3 * PAGE_SIZE],
      [PAGE_SIZE - 1, 2],
      [7, 0],
    ] as const)
      expect(gpu.run({ opcode: Opcode.checksum, source, length })).to.include({
        status: ok,
        result: crc32(gpuBytes(gpu, source, length)),
      });
  });

  it('goes round the ring, keeps RingHead current and interrupts per completion unless masked', () => {
    const gpu = rig();
    for (let i = 1; i <= 3 * ENTRIES; i++) {
      expect(gpu.run({ opcode: Opcode.nop })).to.deep.equal({ status: ok, result: 0, sequence: i });
      expect(gpu.get('RingHead')).to.equal(i % ENTRIES);
    }
    expect(gpu.interrupts).to.equal(3 * ENTRIES);
    expect(gpu.get('InterruptStatus')).to.equal(INTERRUPT_COMPLETION);
    gpu.set('InterruptStatus', INTERRUPT_COMPLETION);
    gpu.set('InterruptMask', INTERRUPT_COMPLETION);
    gpu.run({ opcode: Opcode.nop });
    expect(gpu.interrupts).to.equal(3 * ENTRIES);
    expect(gpu.get('InterruptStatus'), 'a masked cause is still shown').to.equal(INTERRUPT_COMPLETION);
  });

  it('answers commands that make no sense with badCommand, and goes on', () => {
    const gpu = rig();
    const bad = [
      { opcode: 99 },
      { opcode: Opcode.fill, length: COMMAND_LENGTH_LIMIT + 4 },
      { opcode: Opcode.fill, target: 2, length: 4 },
      { opcode: Opcode.fill, length: 6 },
      { opcode: Opcode.copy, source: GPU_VA_LIMIT, length: 1 },
      { opcode: Opcode.copy, target: GPU_VA_LIMIT - 1, length: 2 },
      { opcode: Opcode.checksum, source: 0xffff_ffff, length: 0xffff_ffff },
    ];
    for (const command of bad)
      expect(gpu.run(command), JSON.stringify(command)).to.include({ status: badCommand });
    expect(gpu.run({ opcode: Opcode.nop })).to.include({ status: ok, sequence: bad.length + 1 });
    expect(gpu.dma.heldPins).to.equal(0);
  });
});

describe('vgpu faults', () => {
  it('ends a command at a GPU page that is not present, and says where', () => {
    const gpu = rig();
    scribble(gpu);
    gpu.pte(PAGE_SIZE, 0, 0);
    expect(gpu.run({ opcode: Opcode.fill, length: 2 * PAGE_SIZE, value: 1 })).to.include({ status: fault });
    expect([gpu.get('FaultAddress'), gpu.get('FaultIova')]).to.deep.equal([PAGE_SIZE, 0]);
    expect(gpu.get('InterruptStatus') & INTERRUPT_FAULT).to.equal(INTERRUPT_FAULT);
    expect(gpu.faults, 'the GPU page table said no, not the IOMMU').to.deep.equal([]);
    expect(gpu.run({ opcode: Opcode.fill, length: PAGE_SIZE, value: 1 })).to.include({ status: ok });
  });

  it('refuses to write through a GPU page that is read-only', () => {
    const gpu = rig();
    gpu.pte(0, DATA[0] as number, GPU_PTE_PRESENT);
    expect(gpu.run({ opcode: Opcode.fill, length: 4 })).to.include({ status: fault });
    expect(gpu.run({ opcode: Opcode.checksum, length: 4 })).to.include({ status: ok });
    expect(gpu.run({ opcode: Opcode.fill, length: 4 }), 'after it was read').to.include({ status: fault });
  });

  it('reports an IOVA that is not mapped, or not for writing, to the vIOMMU and to the guest', async () => {
    const gpu = rig();
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.run({ opcode: Opcode.fill, target: 8, length: 4 })).to.include({ status: fault });
    expect(gpu.faults).to.deep.equal([{ iova: DATA[0], write: true, denied: false }]);
    expect([gpu.get('FaultAddress'), gpu.get('FaultIova')]).to.deep.equal([0, DATA[0]]);
    gpu.container.map(0x100000 as Iova, 0x100000, 0x10000, PERM_READ);
    expect(gpu.run({ opcode: Opcode.checksum, length: 4 })).to.include({ status: ok });
    expect(gpu.run({ opcode: Opcode.fill, length: 4 })).to.include({ status: fault });
    expect(gpu.faults[1]).to.deep.equal({ iova: DATA[0], write: true, denied: true });
  });

  it('halts when the ring, or the completions, cannot be reached, and a reset brings it back', () => {
    for (const [ring, completions] of [
      [RAM_BYTES, COMPLETIONS],
      [RING, RAM_BYTES],
    ] as const) {
      const gpu = rig();
      gpu.enable(ring, completions);
      gpu.submit({ opcode: Opcode.nop });
      expect(gpu.go()).to.equal('idle');
      expect(gpu.get('Status')).to.equal(STATUS_HALTED);
      expect(gpu.get('InterruptStatus')).to.equal(INTERRUPT_HALTED);
      expect(gpu.faults).to.deep.equal([{ iova: RAM_BYTES, write: ring === RING, denied: false }]);
      expect(gpu.model.step(), 'halted').to.equal('idle');
      gpu.set('Control', CONTROL_RESET);
      expect(gpu.get('Status')).to.equal(0);
      gpu.enable();
      gpu.tails.copy = 0;
      expect(gpu.run({ opcode: Opcode.nop })).to.include({ status: ok });
    }
  });

  it('halts on a ring size that is no power of two in range', () => {
    for (const entries of [0, 1, 3, 2 * RING_ENTRIES_MAX, 0xffff_ffff]) {
      const gpu = rig();
      gpu.enable(RING, COMPLETIONS, DIRECTORY, entries);
      expect(gpu.get('Status'), `${entries}`).to.equal(STATUS_HALTED);
    }
  });

  it('halts when it is enabled again with a ring that its head lies outside of', () => {
    const gpu = rig();
    for (let i = 0; i < 5; i++) gpu.run({ opcode: Opcode.nop });
    gpu.set('Control', 0);
    gpu.set('RingTail', 1);
    gpu.enable(RING, COMPLETIONS, DIRECTORY, 4);
    expect(gpu.steps()).to.equal('idle');
    expect(gpu.get('Status')).to.equal(STATUS_HALTED);
    expect(gpu.completion(5).sequence, 'no completion outside the new ring').to.equal(0);
  });

  it('ends every command over a page directory that points at itself', () => {
    const gpu = rig();
    gpu.pde(0, DIRECTORY, GPU_PTE_PRESENT | 2);
    gpu.pde(1, DIRECTORY, GPU_PTE_PRESENT | 2);
    expect(gpu.run({ opcode: Opcode.checksum, length: 3 * PAGE_SIZE })).to.include({ status: fault });
    expect(gpu.run({ opcode: Opcode.fill, length: PAGE_SIZE, value: 0x5a5a_5a5a })).to.include({
      status: ok,
    });
    expect(gpu.ram.read32(DIRECTORY)).to.equal(0x5a5a_5a5a);
    gpu.set('TlbInvalidate', 1);
    expect(gpu.run({ opcode: Opcode.checksum, length: 4 })).to.include({ status: fault });
  });
});

describe('vgpu and its pins', () => {
  it('pins what it shadows, drops it on dmaUnmap, and translates anew', async () => {
    const gpu = rig();
    gpu.run({ opcode: Opcode.fill, length: 4 * PAGE_SIZE, value: 1 });
    expect(gpu.dma.heldPins).to.equal(4);
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.asked).to.deep.equal([[0x100000, 0x10000]]);
    expect(gpu.dma.heldPins).to.equal(0);
    // The same IOVAs on other memory: the next fill must land there.
    gpu.container.map(0x100000 as Iova, 0x200000, 0x10000, PERM_RW);
    expect(gpu.run({ opcode: Opcode.fill, length: 4, value: 2 })).to.include({ status: ok });
    expect(gpu.ram.read32(DATA[0] as number)).to.equal(1);
    expect(gpu.ram.read32((DATA[0] as number) + 0x100000)).to.equal(2);
    expect(gpu.violations).to.deep.equal([]);
  });

  it('keeps the entries outside the range of a dmaUnmap', () => {
    const gpu = rig();
    gpu.run({ opcode: Opcode.fill, length: 4 * PAGE_SIZE });
    gpu.model.dmaUnmap(0x101000 as Iova, 0x2000);
    expect(gpu.dma.heldPins).to.equal(2);
    gpu.model.dmaUnmap(0 as Iova, 2 ** 40);
    expect(gpu.dma.heldPins).to.equal(0);
  });

  it('uses a changed GPU page only after TlbInvalidate', () => {
    const gpu = rig();
    gpu.run({ opcode: Opcode.fill, length: 4, value: 1 });
    gpu.pte(0, 0x140000);
    gpu.run({ opcode: Opcode.fill, length: 4, value: 2 });
    expect([gpu.ram.read32(DATA[0] as number), gpu.ram.read32(0x140000)]).to.deep.equal([2, 0]);
    gpu.set('TlbInvalidate', 1);
    expect(gpu.dma.heldPins).to.equal(0);
    gpu.run({ opcode: Opcode.fill, length: 4, value: 3 });
    expect([gpu.ram.read32(DATA[0] as number), gpu.ram.read32(0x140000)]).to.deep.equal([2, 3]);
  });

  it('holds one pin on a page that it first read and then wrote', () => {
    const gpu = rig();
    gpu.run({ opcode: Opcode.checksum, length: 4 });
    gpu.run({ opcode: Opcode.fill, length: 4 });
    expect(gpu.dma.heldPins).to.equal(1);
    expect(gpu.container.pins()).to.equal(1);
  });

  it('never uses a page it let go while it raised the permission of a copy inside one page', () => {
    const gpu = rig();
    gpu.run({ opcode: Opcode.checksum, length: 4 });
    // Shadowed for reading; the write that follows pins the page anew, and finds it elsewhere.
    gpu.pte(0, 0x140000);
    gpu.ram.write32(0x140000, 0x1234_5678);
    expect(gpu.run({ opcode: Opcode.copy, source: 0, target: 64, length: 4 })).to.include({ status: ok });
    expect(gpu.violations).to.deep.equal([]);
    expect(gpu.ram.read32(0x140040)).to.equal(0x1234_5678);
  });

  it('drops every pin on reset, on a new page table, and when it is closed', () => {
    const ways: ((gpu: VgpuRig) => void)[] = [
      (gpu) => gpu.set('Control', CONTROL_RESET),
      (gpu) => gpu.set('PageTableBase', TABLE),
      (gpu) => gpu.model.close(),
    ];
    for (const way of ways) {
      const gpu = rig();
      gpu.run({ opcode: Opcode.fill, length: 4 * PAGE_SIZE });
      way(gpu);
      expect(gpu.dma.heldPins).to.equal(0);
      expect(gpu.container.pins()).to.equal(0);
    }
  });

  it('forgets a half-done command on reset', () => {
    const gpu = rig();
    gpu.submit({ opcode: Opcode.nop });
    gpu.set('RingTail', 1);
    expect(gpu.model.step()).to.equal('more');
    gpu.set('Control', CONTROL_RESET);
    expect(gpu.get('RingTail')).to.equal(0);
    gpu.enable();
    expect(gpu.steps()).to.equal('idle');
    expect(gpu.completion(0).sequence).to.equal(0);
    gpu.set('Control', CONTROL_ENABLE);
    expect(gpu.get('Status')).to.equal(STATUS_RUNNING);
  });
});

describe('vgpu during a switch of its address space', () => {
  it('stalls without a fault, then goes on with nothing lost', async () => {
    const gpu = rig();
    scribble(gpu);
    // Longer than a step: the switch comes in the middle.
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
      const gpu = rig();
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

  it('takes a miss after the switch for a fault', async () => {
    const gpu = rig();
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

describe('faulty vgpus', () => {
  it('stale-translation unpins as told, and is caught using what it unpinned', async () => {
    const gpu = rig('stale-translation');
    gpu.run({ opcode: Opcode.fill, length: 4, value: 1 });
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.quarantines).to.deep.equal([]);
    expect(gpu.dma.heldPins).to.equal(0);
    expect(gpu.run({ opcode: Opcode.fill, length: 4, value: 2 })).to.include({ status: ok });
    expect(gpu.violations).to.include('use-after-unpin');
    expect(gpu.ram.read32(DATA[0] as number), 'the damage is done').to.equal(2);
  });

  it('never-unpin keeps its pins, and is quarantined', async () => {
    const gpu = rig('never-unpin');
    gpu.run({ opcode: Opcode.fill, length: 4 });
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.dma.heldPins).to.equal(1);
    expect(gpu.quarantines).to.deep.equal(['never-unpins']);
  });

  it('worker-crash ends its thread under load, in the middle of a command, with pins held', () => {
    const gpu = rig('worker-crash');
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

  it('a sound one does none of this', async () => {
    const gpu = rig();
    gpu.run({ opcode: Opcode.fill, length: 4 });
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.run({ opcode: Opcode.fill, length: 4 })).to.include({ status: fault });
    expect(gpu.violations).to.deep.equal([]);
    expect(gpu.quarantines).to.deep.equal([]);
  });
});
