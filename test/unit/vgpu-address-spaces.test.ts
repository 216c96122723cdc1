import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as gpu from '../../src/abi/vgpu/memory.ts';
import { COMMAND_LENGTH_LIMIT, CONTROL_RESET, CompletionStatus, Opcode } from '../../src/abi/vgpu/vgpu.ts';
import { type Iova, PAGE_2M, PAGE_SIZE } from '../../src/memory/address.ts';
import { SHADOW_LIMIT } from '../../src/models/vgpu/mmu/shadow-page-table.ts';
import { VgpuRig } from '../fixtures/vgpu-rig.ts';

const { ok, fault, badCommand } = CompletionStatus;
const ROOT = 0x40000;
const DIRECTORY = 0x41000;
const PAGES = 0x42000;
const CONTEXTS = 0x43000;
const DATA = 0x200000;
/** The addresses of context 1 are in gigabyte 9, above 4 GiB. */
const HIGH = 2;
const LOW = 0x4000_0000;
const PRESENT = gpu.GPU_PTE_PRESENT;
const RW = PRESENT | gpu.GPU_PTE_WRITABLE;

class ContextRig extends VgpuRig {
  constructor() {
    super();
    this.enable();
    this.entry(ROOT + 9 * 8, DIRECTORY, PRESENT);
    this.entry(DIRECTORY, PAGES, PRESENT);
    this.entry(CONTEXTS + 8, ROOT, gpu.GPU_ROOT_PRESENT | gpu.GPU_ROOT_LEVELS_3);
    this.set('ContextTableBase', CONTEXTS);
    this.set('ContextCount', 3);
  }

  entry(gpa: number, iova: number, flags: number): void {
    this.ram.write32(gpa, iova | flags);
    this.ram.write32(gpa + 4, 0);
  }

  fill(va: number, length: number, value: number, context = 1): number {
    const high = context === 1 ? HIGH : 0;
    return this.run({ opcode: Opcode.fill, context, target: va, targetHigh: high, length, value }).status;
  }

  update(va: number, iova: number, length: number, flags: number, context = 1): number {
    const targetHigh = context === 1 ? HIGH : 0;
    return this.run({
      opcode: Opcode.updatePtes,
      context,
      target: va,
      targetHigh,
      source: iova,
      length,
      value: flags,
    }).status;
  }

  global(index: number, entry: bigint, size = 8, at = 0): void {
    this.model.bars[4]!.write(index * 8 + at, size, entry);
  }
}

describe('vgpu contexts', () => {
  it('translate addresses above 4 GiB with three levels, separate from context 0', () => {
    const rig = new ContextRig();
    rig.entry(PAGES + 8, DATA, RW);
    expect(rig.fill(LOW + PAGE_SIZE, PAGE_SIZE, 7)).to.equal(ok);
    expect(rig.ram.read32(DATA + PAGE_SIZE - 4)).to.equal(7);
    expect(rig.run({ opcode: Opcode.fill, target: PAGE_SIZE, length: 4 }).status, 'context 0').to.equal(
      fault,
    );
    expect(rig.get('FaultContext')).to.equal(0);
  });

  it('refuse contexts beyond the count, and fault in contexts without a root', () => {
    const rig = new ContextRig();
    expect(rig.fill(LOW, 4, 1, 3)).to.equal(badCommand);
    expect(rig.fill(LOW, 4, 1, gpu.CONTEXTS_LIMIT)).to.equal(badCommand);
    expect(rig.fill(LOW, 4, 1, 2)).to.equal(fault);
    expect([rig.get('FaultContext'), rig.get('FaultAddress'), rig.get('FaultIova')]).to.deep.equal([
      2,
      LOW,
      0,
    ]);
    rig.set('ContextCount', 1000);
    expect(rig.fill(LOW, 4, 1, gpu.CONTEXTS_LIMIT), 'at the limit').to.equal(badCommand);
    expect(rig.fill(LOW, 4, 1, gpu.CONTEXTS_LIMIT - 1), 'below the limit').to.equal(fault);
  });

  it('report both halves of a faulting address', () => {
    const rig = new ContextRig();
    expect(rig.fill(LOW + 3 * PAGE_SIZE, 4, 1)).to.equal(fault);
    expect([rig.get('FaultAddressHigh'), rig.get('FaultAddress')]).to.deep.equal([HIGH, LOW + 3 * PAGE_SIZE]);
  });

  it('support aligned pages of 64 KiB and 2 MiB', () => {
    const rig = new ContextRig();
    for (let i = 0; i < 16; i++) rig.entry(PAGES + (16 + i) * 8, DATA, RW | gpu.GPU_PTE_64K);
    expect(rig.fill(LOW + 0x10000 + 0x5000, 8, 5)).to.equal(ok);
    expect(rig.ram.read32(DATA + 0x5000)).to.equal(5);
    rig.entry(DIRECTORY + 8, 2 * PAGE_2M, RW | gpu.GPU_PTE_2M);
    expect(rig.fill(LOW + PAGE_2M + 0x12340, 8, 6)).to.equal(ok);
    expect(rig.ram.read32(2 * PAGE_2M + 0x12340)).to.equal(6);
    rig.entry(PAGES, DATA + PAGE_SIZE, RW | gpu.GPU_PTE_64K);
    expect(rig.fill(LOW, 4, 1), 'not a multiple of 64 KiB').to.equal(fault);
    rig.entry(DIRECTORY + 16, PAGE_2M + 0x10000, RW | gpu.GPU_PTE_2M);
    expect(rig.fill(LOW + 2 * PAGE_2M, 4, 1), 'not a multiple of 2 MiB').to.equal(fault);
    expect(rig.violations).to.deep.equal([]);
  });

  it('drop their shadows when the context table changes', () => {
    const rig = new ContextRig();
    rig.entry(PAGES, DATA, RW);
    expect(rig.fill(LOW, 4, 1)).to.equal(ok);
    const [table, root, directory, pages] = [0x44000, 0x45000, 0x46000, 0x47000] as const;
    rig.entry(table + 8, root, gpu.GPU_ROOT_PRESENT | gpu.GPU_ROOT_LEVELS_3);
    rig.entry(root + 9 * 8, directory, PRESENT);
    rig.entry(directory, pages, PRESENT);
    rig.entry(pages, DATA + 0x8000, RW);
    rig.set('ContextTableBase', table);
    expect(rig.dma.heldPins).to.equal(0);
    expect(rig.fill(LOW, 4, 2)).to.equal(ok);
    expect([rig.ram.read32(DATA), rig.ram.read32(DATA + 0x8000)]).to.deep.equal([1, 2]);
  });

  it('fault at a root or a directory entry that is not present, whatever its address', () => {
    const rig = new ContextRig();
    rig.entry(PAGES, DATA, RW);
    rig.entry(CONTEXTS + 16, ROOT, gpu.GPU_ROOT_LEVELS_3);
    const at = { opcode: Opcode.fill, target: LOW, targetHigh: HIGH, length: 4, value: 1 };
    expect(rig.run({ ...at, context: 2 }).status, 'root').to.equal(fault);
    rig.entry(DIRECTORY + 8, PAGES, 0);
    expect(rig.run({ ...at, context: 1, target: LOW + PAGE_2M }).status, 'directory').to.equal(fault);
    expect(rig.ram.read32(DATA)).to.equal(0);
    expect(rig.run({ ...at, context: 1 }).status).to.equal(ok);
  });

  it('hold at most SHADOW_LIMIT pins together', () => {
    const rig = new ContextRig();
    rig.entry(CONTEXTS + 16, ROOT, gpu.GPU_ROOT_PRESENT | gpu.GPU_ROOT_LEVELS_3);
    for (let i = 0; i < gpu.GPU_TABLE_ENTRIES; i++) {
      rig.entry(DIRECTORY + i * 8, PAGES, PRESENT);
      rig.entry(PAGES + i * 8, DATA + i * PAGE_SIZE, RW);
    }
    const pages = 20 * (COMMAND_LENGTH_LIMIT / PAGE_SIZE);
    expect(2 * pages).to.be.greaterThan(SHADOW_LIMIT);
    for (const context of [1, 2])
      for (let at = 0; at < pages * PAGE_SIZE; at += COMMAND_LENGTH_LIMIT) {
        const place = { target: LOW + at, targetHigh: HIGH, length: COMMAND_LENGTH_LIMIT };
        expect(rig.run({ opcode: Opcode.fill, context, ...place }).status).to.equal(ok);
        expect(rig.dma.heldPins).to.be.within(1, SHADOW_LIMIT);
      }
  });
});

describe('vgpu page table updates', () => {
  it('write entries of every size by command, and drop their shadow entries', () => {
    const rig = new ContextRig();
    expect(rig.update(LOW, DATA, 2 * PAGE_SIZE, RW)).to.equal(ok);
    expect(rig.fill(LOW, 2 * PAGE_SIZE, 1)).to.equal(ok);
    expect(rig.update(LOW + PAGE_SIZE, DATA + 0x8000, PAGE_SIZE, PRESENT), 'no TLB invalidation').to.equal(
      ok,
    );
    expect(rig.fill(LOW + PAGE_SIZE, 4, 2), 'read-only now').to.equal(fault);
    expect(rig.update(LOW + 0x10000, DATA, 0x10000, RW | gpu.GPU_PTE_64K)).to.equal(ok);
    expect(rig.fill(LOW + 0x1f000, 4, 3)).to.equal(ok);
    expect(rig.ram.read32(DATA + 0xf000)).to.equal(3);
    expect(rig.update(LOW + PAGE_2M, PAGE_2M, PAGE_2M, RW | gpu.GPU_PTE_2M)).to.equal(ok);
    expect(rig.fill(LOW + PAGE_2M + 64, 4, 4)).to.equal(ok);
    expect(rig.update(LOW, 0, PAGE_SIZE, 0)).to.equal(ok);
    expect(rig.fill(LOW, 4, 5), 'cleared').to.equal(fault);
    expect(rig.violations).to.deep.equal([]);
  });

  it('refuse misaligned updates, and fault without a table', () => {
    const rig = new ContextRig();
    expect(rig.update(LOW + 4, DATA, PAGE_SIZE, RW)).to.equal(badCommand);
    expect(rig.update(LOW, DATA + 4, PAGE_SIZE, RW)).to.equal(badCommand);
    expect(rig.update(LOW, DATA, PAGE_SIZE / 2, RW)).to.equal(badCommand);
    expect(rig.update(LOW + PAGE_SIZE, DATA, 0x10000, RW | gpu.GPU_PTE_64K)).to.equal(badCommand);
    expect(rig.update(LOW + PAGE_2M, DATA, PAGE_SIZE, RW)).to.equal(fault);
    expect(rig.get('FaultAddress')).to.equal(LOW + PAGE_2M);
  });

  it('follow every trapped write to the global table', async () => {
    const rig = new ContextRig();
    const fill = (va: number) => rig.fill(va, 4, 9, gpu.GLOBAL_CONTEXT);
    expect(fill(0)).to.equal(fault);
    rig.global(0, BigInt(DATA | RW));
    expect(fill(0)).to.equal(ok);
    rig.global(0, BigInt(DATA | PRESENT), 4);
    expect(fill(0), 'read-only by a write of the lower half').to.equal(fault);
    rig.global(0, BigInt(RW), 1);
    expect(fill(0), 'writable by a write of the lowest byte').to.equal(ok);
    rig.global(0, 1n, 4, 4);
    expect(fill(0), 'beyond RAM by a write of the upper half').to.equal(fault);
    expect(rig.faults.at(-1)?.iova).to.equal(2 ** 32 + DATA);
    expect(rig.model.bars[4]!.read(0, 8)).to.equal(BigInt(2 ** 32 + DATA) | BigInt(RW));
    expect(fill(gpu.GLOBAL_VA_LIMIT)).to.equal(badCommand);
    rig.global(1, BigInt(DATA | RW));
    expect(fill(PAGE_SIZE)).to.equal(ok);
    await rig.container.unmapRange(DATA as Iova, 0x10000);
    expect(rig.dma.heldPins).to.equal(0);
    expect(fill(PAGE_SIZE)).to.equal(fault);
    rig.set('Control', CONTROL_RESET);
    expect(rig.model.bars[4]!.read(8, 8), 'a reset clears it').to.equal(0n);
  });

  it('fault below a page of 2 MiB, and leave its data', () => {
    const rig = new ContextRig();
    rig.entry(DIRECTORY + 8, 2 * PAGE_2M, RW | gpu.GPU_PTE_2M);
    expect(rig.update(LOW + PAGE_2M, DATA, PAGE_SIZE, RW)).to.equal(fault);
    expect(rig.ram.read32(2 * PAGE_2M)).to.equal(0);
  });

  it('clear an entry also for reads', () => {
    const rig = new ContextRig();
    expect(rig.update(LOW, DATA, PAGE_SIZE, RW)).to.equal(ok);
    const sum = { opcode: Opcode.checksum, context: 1, source: LOW, sourceHigh: HIGH, length: 4 };
    expect(rig.run(sum).status).to.equal(ok);
    expect(rig.update(LOW, DATA, PAGE_SIZE, 0)).to.equal(ok);
    expect(rig.run(sum).status).to.equal(fault);
  });

  it('follow a write over two entries of the global table, and refuse large pages there', () => {
    const rig = new ContextRig();
    const fill = (va: number) => rig.fill(va, 4, 9, gpu.GLOBAL_CONTEXT);
    for (const index of [0, 1]) rig.global(index, BigInt((DATA + index * PAGE_SIZE) | RW));
    expect([fill(0), fill(PAGE_SIZE)]).to.deep.equal([ok, ok]);
    rig.global(0, 0n, 8, 4);
    expect([fill(0), fill(PAGE_SIZE)]).to.deep.equal([ok, fault]);
    const large = RW | gpu.GPU_PTE_64K;
    expect(rig.update(0, DATA, 0x10000, large, gpu.GLOBAL_CONTEXT)).to.equal(fault);
    expect(rig.model.bars[4]!.read(8, 8)).to.equal(0n);
  });
});
