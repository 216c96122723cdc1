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
import { type Iova, PAGE_SIZE, PERM_READ } from '../../src/memory/address.ts';
import { COMMAND_BUS_MASTER, COMMAND_MEMORY_SPACE } from '../../src/pci/config-space.ts';
import { DATA, fillWithPattern, gpuBytes, vgpuWithData } from '../fixtures/vgpu-data.ts';
import { COMPLETIONS, DIRECTORY, ENTRIES, RING } from '../fixtures/vgpu-layout.ts';
import { RAM_BYTES } from '../fixtures/vgpu-rig.ts';

const { ok, fault, badCommand } = CompletionStatus;
describe('vgpu commands', () => {
  it('run only after the vgpu becomes a bus master', () => {
    const gpu = vgpuWithData();
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

  it('fill across pages, and change no byte around', () => {
    const gpu = vgpuWithData();
    fillWithPattern(gpu);
    const before = gpuBytes(gpu, 0, 4 * PAGE_SIZE);
    const [from, length] = [PAGE_SIZE - 8, 2 * PAGE_SIZE + 12];
    expect(gpu.run({ opcode: Opcode.fill, target: from, length, value: 0xcafe_f00d })).to.include({
      status: ok,
    });
    for (let at = from; at < from + length; at += 4) before.writeUInt32LE(0xcafe_f00d, at);
    expect(gpuBytes(gpu, 0, 4 * PAGE_SIZE).equals(before)).to.equal(true);
    expect(gpu.model.counters.bytesFilled).to.equal(length);
  });

  it('copy unaligned ranges that cross pages at different offsets', () => {
    const gpu = vgpuWithData();
    fillWithPattern(gpu);
    const expected = gpuBytes(gpu, 0, 4 * PAGE_SIZE);
    const [source, target, length] = [5, 2 * PAGE_SIZE - 77, PAGE_SIZE + 1234];
    expect(gpu.run({ opcode: Opcode.copy, source, target, length })).to.include({ status: ok });
    expected.copy(expected, target, source, source + length);
    expect(gpuBytes(gpu, 0, 4 * PAGE_SIZE).equals(expected)).to.equal(true);
  });

  it('return the CRC-32 of the bytes for a checksum', () => {
    const gpu = vgpuWithData();
    fillWithPattern(gpu);
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

  it('wrap around the ring, update RingHead, and interrupt per completion unless masked', () => {
    const gpu = vgpuWithData();
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

  it('end with badCommand if invalid, and let the next command run', () => {
    const gpu = vgpuWithData();
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

  it('are dropped by a reset when unfinished', () => {
    const gpu = vgpuWithData();
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

  it('begin at the first slot of the ring after a reset', () => {
    const gpu = vgpuWithData();
    for (let i = 0; i < 3; i++) gpu.run({ opcode: Opcode.nop });
    gpu.set('Control', CONTROL_RESET);
    expect(gpu.get('RingHead')).to.equal(0);
    gpu.enable();
    gpu.tails.copy = 0;
    expect(gpu.run({ opcode: Opcode.nop })).to.include({ status: ok, sequence: 4 });
    expect([gpu.get('RingHead'), gpu.model.counters.commands]).to.deep.equal([1, 4]);
  });
});

describe('vgpu faults', () => {
  it('end a command at a GPU page that is not present, and report its address', () => {
    const gpu = vgpuWithData();
    fillWithPattern(gpu);
    gpu.pte(PAGE_SIZE, 0, 0);
    expect(gpu.run({ opcode: Opcode.fill, length: 2 * PAGE_SIZE, value: 1 })).to.include({ status: fault });
    expect([gpu.get('FaultAddress'), gpu.get('FaultIova')]).to.deep.equal([PAGE_SIZE, 0]);
    expect(gpu.get('InterruptStatus') & INTERRUPT_FAULT).to.equal(INTERRUPT_FAULT);
    expect(gpu.faults, 'no fault of the IOMMU').to.deep.equal([]);
    expect(gpu.run({ opcode: Opcode.fill, length: PAGE_SIZE, value: 1 })).to.include({ status: ok });
  });

  it('end a write to a read-only GPU page', () => {
    const gpu = vgpuWithData();
    gpu.pte(0, DATA[0] as number, GPU_PTE_PRESENT);
    expect(gpu.run({ opcode: Opcode.fill, length: 4 })).to.include({ status: fault });
    expect(gpu.run({ opcode: Opcode.checksum, length: 4 })).to.include({ status: ok });
    expect(gpu.run({ opcode: Opcode.fill, length: 4 }), 'after a read').to.include({ status: fault });
    const copy = { opcode: Opcode.copy, source: 0, target: PAGE_SIZE, length: 4 };
    expect(gpu.run(copy), 'it can be read').to.include({ status: ok });
  });

  it('report an unmapped or read-only IOVA to the vIOMMU and to the guest', async () => {
    const gpu = vgpuWithData();
    await gpu.container.unmapRange(0x100000 as Iova, 0x10000);
    expect(gpu.run({ opcode: Opcode.fill, target: 8, length: 4 })).to.include({ status: fault });
    expect(gpu.faults).to.deep.equal([{ iova: DATA[0], write: true, denied: false }]);
    expect([gpu.get('FaultAddress'), gpu.get('FaultIova')]).to.deep.equal([0, DATA[0]]);
    gpu.container.map(0x100000 as Iova, 0x100000, 0x10000, PERM_READ);
    expect(gpu.run({ opcode: Opcode.checksum, length: 4 })).to.include({ status: ok });
    expect(gpu.run({ opcode: Opcode.fill, length: 4 })).to.include({ status: fault });
    expect(gpu.faults[1]).to.deep.equal({ iova: DATA[0], write: true, denied: true });
  });

  it('halt the vgpu at an unmapped ring or completion, until a reset', () => {
    for (const [ring, completions] of [
      [RAM_BYTES, COMPLETIONS],
      [RING, RAM_BYTES],
    ] as const) {
      const gpu = vgpuWithData();
      gpu.enable(ring, completions);
      gpu.submit({ opcode: Opcode.nop });
      expect(gpu.go()).to.equal('idle');
      expect(gpu.get('Status')).to.equal(STATUS_HALTED);
      expect(gpu.get('InterruptStatus')).to.equal(INTERRUPT_HALTED);
      expect(gpu.faults).to.deep.equal([{ iova: RAM_BYTES, write: ring === RING, denied: false }]);
      expect(gpu.model.step(), 'halted').to.equal('idle');
      gpu.enable();
      expect(gpu.get('Status'), 'no start without a reset').to.equal(STATUS_HALTED);
      gpu.set('Control', CONTROL_RESET);
      expect(gpu.get('Status')).to.equal(0);
      gpu.enable();
      gpu.tails.copy = 0;
      expect(gpu.run({ opcode: Opcode.nop })).to.include({ status: ok });
    }
  });

  it('halt the vgpu at a ring size that is no power of two in range', () => {
    for (const entries of [0, 1, 3, 2 * RING_ENTRIES_MAX, 0xffff_ffff]) {
      const gpu = vgpuWithData();
      gpu.enable(RING, COMPLETIONS, DIRECTORY, entries);
      expect(gpu.get('Status'), `${entries}`).to.equal(STATUS_HALTED);
    }
  });

  it('halt the vgpu when RingHead lies outside the ring at enable', () => {
    const gpu = vgpuWithData();
    for (let i = 0; i < 5; i++) gpu.run({ opcode: Opcode.nop });
    gpu.set('Control', 0);
    gpu.set('RingTail', 1);
    gpu.enable(RING, COMPLETIONS, DIRECTORY, 4);
    expect(gpu.steps()).to.equal('idle');
    expect(gpu.get('Status')).to.equal(STATUS_HALTED);
    expect(gpu.completion(5).sequence, 'no completion outside the new ring').to.equal(0);
  });

  it('end every command on a page directory that points to itself', () => {
    const gpu = vgpuWithData();
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
