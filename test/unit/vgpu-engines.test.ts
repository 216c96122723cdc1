import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vgpu from '../../src/abi/vgpu/vgpu.ts';
import { PAGE_SIZE } from '../../src/memory/address.ts';
import { VgpuBus } from '../fixtures/vgpu-bus.ts';

const { Kernel, Opcode } = vgpu;
const { ok, fault, badCommand, hung } = vgpu.CompletionStatus;
const { CONTROL_ENABLE, CONTROL_ENGINE_RESET, CONTROL_RESET } = vgpu;
const DATA = 0x10_0000;
/** GPU pages are RAM from 0 on, and VRAM from VRAM_PAGE on. */
const PAGES = 128;
const VRAM_PAGE = 256;
const VRAM_VA = VRAM_PAGE * PAGE_SIZE;
const LENGTH = PAGES * PAGE_SIZE;
const FLAGS = vgpu.GPU_PTE_PRESENT | vgpu.GPU_PTE_WRITABLE;

const NOP = { opcode: Opcode.nop };
const SPIN = { opcode: Opcode.compute, value: Kernel.spin, length: 4 };
const LONG: Readonly<Record<vgpu.GpuEngine, Record<string, number>>> = {
  copy: { opcode: Opcode.checksum, length: LENGTH },
  compute: { opcode: Opcode.compute, value: Kernel.sum, length: LENGTH },
};

class Bus extends VgpuBus {
  stepped = 0;

  constructor() {
    super();
    this.program();
    for (let page = 0; page < PAGES; page++) {
      this.pte(page, DATA + page * PAGE_SIZE);
      this.pte(VRAM_PAGE + page, page * PAGE_SIZE, FLAGS | vgpu.GPU_PTE_VRAM);
    }
  }

  override step(): string {
    this.stepped++;
    return super.step();
  }

  /** Returns the bytes that an engine's command has processed, and -1 if none runs. */
  done(engine: vgpu.GpuEngine): number {
    return Number(this.model.state!.save()[`${engine}.command.done`] ?? -1);
  }

  faultOf(engine: vgpu.GpuEngine): number[] {
    return (['FaultContext', 'FaultAddress', 'FaultIova'] as const).map((name) => this.getOf(engine, name));
  }
}

const other = (engine: vgpu.GpuEngine): vgpu.GpuEngine => (engine === 'copy' ? 'compute' : 'copy');

describe('engines of a vgpu', () => {
  it('have equal, separate blocks of registers', () => {
    const [copy, compute] = vgpu.GPU_ENGINE_NAMES.map((name) => vgpu.engineRegisters(name));
    for (const [i, spec] of copy!.entries()) {
      const { name, offset, size, reset } = compute![i]!;
      expect([name, offset, size, reset]).to.deep.equal([
        `Compute${spec.name}`,
        0x100 + spec.offset,
        spec.size,
        spec.reset,
      ]);
    }
    const bus = new Bus();
    bus.set('RingBase', 0x1234_5000);
    bus.set('ComputeRingBase', 0x5432_1000);
    expect([bus.get('RingBase'), bus.get('ComputeRingBase')]).to.deep.equal([0x1234_5000, 0x5432_1000]);
  });

  for (const engine of vgpu.GPU_ENGINE_NAMES)
    it(`run the commands of the table: ${engine}`, () => {
      const bus = new Bus();
      for (const opcode of [...Object.values(Opcode), 99]) {
        const command = {
          opcode,
          length: PAGE_SIZE,
          value: opcode === Opcode.updatePtes ? FLAGS : Kernel.sum,
        };
        const valid = { ...command, source: opcode === Opcode.wait ? VRAM_VA : 0 };
        if (opcode === Opcode.wait) bus.do({ opcode: Opcode.signal, target: VRAM_VA, value: Kernel.sum });
        const runs = vgpu.GPU_ENGINES[engine].opcodes.some((each) => each === opcode);
        expect(bus.do(valid, engine).status, `opcode ${opcode}`).to.equal(runs ? ok : badCommand);
      }
      expect(bus.violations).to.deep.equal([]);
    });

  it('alternate after each piece while both have work, and run alone otherwise', () => {
    const bus = new Bus();
    for (const engine of vgpu.GPU_ENGINE_NAMES) bus.submit(LONG[engine], engine);
    for (let steps = 2; steps < 8; steps++) {
      while (bus.stepped < steps) bus.step();
      const turns = [Math.ceil(steps / 2), Math.floor(steps / 2)];
      // The first turn of each engine fetches the command.
      const pieces = turns.map((turn) => (turn - 1) * 16 * PAGE_SIZE);
      expect([bus.done('copy'), bus.done('compute')], `${steps} steps`).to.deep.equal(pieces);
    }
    bus.submit(NOP, 'copy');
    expect(bus.run()).to.equal('idle');
    expect(bus.get('RingHead') + bus.get('ComputeRingHead')).to.equal(3);
  });

  for (const engine of vgpu.GPU_ENGINE_NAMES) {
    const valid = LONG[other(engine)];
    it(`do not wait for a hung ${engine} engine, and its reset affects no other engine`, () => {
      const bus = new Bus();
      bus.setOf(engine, 'HangLimitUs', 1);
      const slot = bus.submit(LONG[engine], engine);
      bus.run();
      expect(bus.getOf(engine, 'Status')).to.equal(vgpu.STATUS_RUNNING | vgpu.STATUS_HUNG);
      expect(bus.get('InterruptStatus')).to.equal(vgpu.engineCauses(engine, vgpu.INTERRUPT_HUNG));
      expect(bus.getOf(other(engine), 'Status')).to.equal(vgpu.STATUS_RUNNING);
      expect(bus.do(valid).status).to.equal(ok);
      bus.submit(valid);
      for (let i = 0; i < 3; i++) bus.step();
      const half = bus.done(other(engine));
      expect(half).to.be.within(1, LENGTH - 1);
      bus.setOf(engine, 'Control', CONTROL_ENABLE | CONTROL_ENGINE_RESET);
      expect(bus.done(other(engine))).to.equal(half);
      expect(bus.run()).to.equal('idle');
      expect(bus.completion(slot, engine).status).to.equal(hung);
      expect(bus.completion(1, other(engine)).status).to.equal(ok);
      expect(bus.do(NOP, engine).status).to.equal(ok);
    });

    it(`do not wait for a halted or disabled ${engine} engine`, () => {
      const bus = new Bus();
      bus.setOf(engine, 'Control', 0);
      bus.submit(NOP, engine);
      expect(bus.do(valid).status).to.equal(ok);
      expect(bus.getOf(engine, 'RingHead'), 'off').to.equal(0);
      bus.setOf(engine, 'RingBase', 2 ** 40);
      bus.setOf(engine, 'Control', CONTROL_ENABLE);
      bus.submit(NOP, engine);
      expect(bus.do(valid).status).to.equal(ok);
      expect(bus.getOf(engine, 'Status')).to.equal(vgpu.STATUS_HALTED);
      expect(bus.get('InterruptStatus') & vgpu.engineCauses(engine, 0xf)).to.equal(
        vgpu.engineCauses(engine, vgpu.INTERRUPT_HALTED),
      );
      expect(bus.getOf(other(engine), 'Status')).to.equal(vgpu.STATUS_RUNNING);
    });

    it(`have separate fault registers: ${engine}`, () => {
      const bus = new Bus();
      const target = 0x1f_f000;
      expect(bus.do({ opcode: Opcode.signal, target }, engine).status).to.equal(fault);
      expect(bus.faultOf(engine)).to.deep.equal([0, target, 0]);
      expect(bus.faultOf(other(engine))).to.deep.equal([0, 0, 0]);
      expect(bus.get('InterruptStatus')).to.equal(
        vgpu.engineCauses(engine, vgpu.INTERRUPT_FAULT | vgpu.INTERRUPT_COMPLETION),
      );
    });

    it(`continue in VRAM while the ${engine} engine stalls on a switch of the address space`, () => {
      const bus = new Bus();
      bus.switching(true);
      bus.unmap(DATA, PAGE_SIZE);
      bus.submit(LONG[engine]);
      const slot = bus.submit({ ...valid, source: VRAM_VA });
      for (let i = 0; i < 100 && bus.step() === 'more'; i++);
      expect(bus.completion(slot, other(engine)).status).to.equal(ok);
      expect(bus.completion(slot, other(engine)).sequence).to.equal(2);
      expect([bus.step(), bus.done(engine)], 'this engine alone').to.deep.equal(['stalled', 0]);
      bus.map({ iova: DATA, gpa: bus.gpa(DATA), size: PAGE_SIZE });
      bus.switching(false);
      expect(bus.run()).to.equal('idle');
      expect(bus.completion(0, engine).status).to.equal(ok);
      expect(bus.faults).to.deep.equal([]);
    });
  }

  it('are both reset by the copy engine’s Control alone', () => {
    const bus = new Bus();
    for (const engine of vgpu.GPU_ENGINE_NAMES) bus.submit(LONG[engine], engine);
    for (let i = 0; i < 4; i++) bus.step();
    expect(bus.heldPins).to.be.greaterThan(0);
    bus.set('ComputeControl', CONTROL_ENABLE | CONTROL_RESET);
    expect(bus.get('ComputeControl')).to.equal(CONTROL_ENABLE);
    expect(bus.heldPins, 'no such bit').to.be.greaterThan(0);
    bus.set('Control', CONTROL_RESET);
    expect(bus.heldPins).to.equal(0);
    for (const engine of vgpu.GPU_ENGINE_NAMES) {
      for (const name of ['Status', 'Control', 'RingBase', 'RingHead', 'RingTail'] as const)
        expect(bus.getOf(engine, name), `${engine} ${name}`).to.equal(0);
      expect(bus.done(engine)).to.equal(-1);
    }
    expect(bus.run()).to.equal('idle');
    bus.program();
    for (const engine of vgpu.GPU_ENGINE_NAMES) expect(bus.do(LONG[engine]).status).to.equal(ok);
  });

  it('share page table updates and one TLB invalidation', () => {
    const bus = new Bus();
    const sum = { opcode: Opcode.compute, value: Kernel.sum, source: 0, length: 4 };
    bus.ram.write32(bus.gpa(DATA), 7);
    bus.ram.write32(bus.gpa(DATA + PAGE_SIZE), 8);
    expect(bus.do(sum).result).to.equal(7);
    const update = { opcode: Opcode.updatePtes, source: DATA + PAGE_SIZE, length: PAGE_SIZE, value: FLAGS };
    expect(bus.do(update).status).to.equal(ok);
    expect(bus.do(sum).result).to.equal(8);
    bus.pte(0, DATA);
    expect(bus.do(sum).result, 'still shadowed').to.equal(8);
    bus.set('TlbInvalidate', 1);
    expect(bus.do(sum).result).to.equal(7);
  });

  it('share the counters', () => {
    const bus = new Bus();
    for (const engine of vgpu.GPU_ENGINE_NAMES) bus.do(LONG[engine]);
    bus.submit(SPIN);
    bus.run();
    expect(bus.model.counters).to.include({ commands: 2, bytesSummed: LENGTH, bytesComputed: LENGTH });
  });
});
