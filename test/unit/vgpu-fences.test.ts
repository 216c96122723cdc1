import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vgpu from '../../src/abi/vgpu/vgpu.ts';
import { DEVICE_LINK_BYTES } from '../../src/channel/device-link.ts';
import { DeviceHarness } from '../../src/device/sdk/harness.ts';
import { EngineSlot } from '../../src/gpu/engine-slot.ts';
import { PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import { vgpuType } from '../../src/gpu/types.ts';
import { PAGE_SIZE } from '../../src/memory/address.ts';
import { DEFAULT_PARTS, Vgpu } from '../../src/models/vgpu/vgpu.ts';
import { VgpuBus } from '../fixtures/vgpu-bus.ts';
import type { CommandFields } from '../fixtures/vgpu-layout.ts';

const { Kernel, Opcode, FENCE_POLL_US } = vgpu;
const { ok, fault, badCommand, hung } = vgpu.CompletionStatus;
const DATA = 0x10_0000;
const PAGES = 32;
const FENCE = 40;
const VRAM_VA = PAGES * PAGE_SIZE;

const wait = (value: number, source = FENCE): CommandFields => ({ opcode: Opcode.wait, source, value });
const signal = (value: number, target = FENCE): CommandFields => ({ opcode: Opcode.signal, target, value });
const NOP = { opcode: Opcode.nop };

class Bus extends VgpuBus {
  constructor() {
    super();
    this.program();
    for (let page = 0; page < PAGES; page++) this.pte(page, DATA + page * PAGE_SIZE);
    this.pte(PAGES, 0, PAGE_FLAGS);
  }

  /** Writes the word of a fence as the guest's CPU. */
  poke(value: number, va = FENCE): void {
    this.ram.write32(this.gpa(DATA + va), value);
  }

  /** Submits a wait that the engine finds unfulfilled, and returns its slot. */
  begin(command: CommandFields, engine: vgpu.GpuEngine): number {
    const slot = this.submit(command, engine);
    expect(this.run()).to.equal('idle');
    expect(this.getOf(engine, 'RingHead'), 'waits').to.equal(slot);
    return slot;
  }

  ended(slot: number, engine: vgpu.GpuEngine): boolean {
    return this.getOf(engine, 'RingHead') !== slot;
  }
}

describe('vgpu fences', () => {
  it('are reached at their value and beyond, modulo 2^32', () => {
    for (const [word, value, passed] of [
      [5, 5, true],
      [6, 5, true],
      [4, 5, false],
      [0, 0xffff_ffff, true],
      [0xffff_ffff, 0, false],
      [0x7fff_ffff, 0, true],
      [0x8000_0000, 0, false],
      [2, 0x8000_0003, true],
      [3, 0x8000_0002, false],
    ] as const) {
      const bus = new Bus();
      bus.poke(word);
      const slot = bus.submit(wait(value), 'compute');
      expect(bus.run()).to.equal('idle');
      expect(bus.ended(slot, 'compute'), `${word} for ${value}`).to.equal(passed);
      if (passed) expect(bus.completion(slot, 'compute')).to.include({ status: ok, result: word });
    }
  });

  for (const [where, at] of [
    ['guest memory', FENCE],
    ['VRAM', VRAM_VA + 8],
  ] as const)
    it(`order the work of both engines, in ${where}`, () => {
      const bus = new Bus();
      const length = 20 * PAGE_SIZE;
      const sum = { opcode: Opcode.compute, value: Kernel.sum, source: PAGE_SIZE, length };
      bus.submit(wait(1, at), 'compute');
      const summed = bus.submit(sum);
      bus.submit(signal(2, at + 64), 'compute');
      bus.submit({ opcode: Opcode.fill, target: PAGE_SIZE, length, value: 3 });
      bus.submit(signal(1, at));
      bus.submit(wait(2, at + 64));
      bus.submit({ opcode: Opcode.fill, target: PAGE_SIZE, length, value: 9 });
      expect(bus.run()).to.equal('idle');
      expect(bus.completion(summed, 'compute')).to.include({ status: ok, result: (3 * length) / 4 });
      expect(bus.word(DATA + PAGE_SIZE), 'the second fill is done').to.equal(9);
      expect(bus.nowUs, 'no time has passed').to.equal(0);
    });

  it('are polled at a doorbell or after FENCE_POLL_US, and not in between', () => {
    const bus = new Bus();
    const first = bus.begin(wait(1), 'compute');
    bus.poke(1);
    for (let i = 0; i < 50; i++) expect(bus.step()).to.equal('idle');
    bus.advance(FENCE_POLL_US - 1);
    expect(bus.ended(first, 'compute'), 'not yet').to.equal(false);
    bus.advance(1);
    expect(bus.ended(first, 'compute'), 'after the poll time').to.equal(true);
    for (const [i, engine] of vgpu.GPU_ENGINE_NAMES.entries()) {
      const slot = bus.begin(wait(2 + i), 'compute');
      bus.poke(2 + i);
      bus.setOf(engine, 'RingTail', bus.tails[engine]);
      bus.run();
      expect(bus.ended(slot, 'compute'), `the doorbell of ${engine}`).to.equal(true);
    }
    const last = bus.begin(wait(9), 'copy');
    bus.advance(FENCE_POLL_US);
    bus.advance(FENCE_POLL_US / 2);
    bus.poke(9);
    bus.advance(FENCE_POLL_US / 2);
    expect(bus.ended(last, 'copy'), 'repeated polls').to.equal(true);
  });

  it('are polled when the other engine ends a command', () => {
    const bus = new Bus();
    const slot = bus.begin(wait(0x0101_0101), 'compute');
    const copied = { opcode: Opcode.fill, target: FENCE, length: 4, value: 0x0101_0101 };
    bus.do(copied);
    expect(bus.completion(slot, 'compute')).to.include({ status: ok, result: 0x0101_0101 });
  });

  it('do not block the other engine or count as hangs, and end with a reset of the engine', () => {
    const bus = new Bus();
    const slot = bus.begin(wait(1), 'compute');
    const next = bus.submit(NOP, 'compute');
    for (let i = 0; i < 100; i++) bus.advance(10 * vgpu.HANG_LIMIT_US);
    expect(bus.do({ opcode: Opcode.checksum, length: LONG }).status).to.equal(ok);
    expect(bus.get('ComputeStatus')).to.equal(vgpu.STATUS_RUNNING);
    bus.set('ComputeControl', vgpu.CONTROL_ENABLE | vgpu.CONTROL_ENGINE_RESET);
    expect(bus.run()).to.equal('idle');
    expect(bus.completion(slot, 'compute')).to.include({ status: hung });
    expect(bus.completion(next, 'compute')).to.include({ status: ok });
  });

  it('continue to wait after their engine is disabled and enabled', () => {
    const bus = new Bus();
    const slot = bus.begin(wait(1), 'copy');
    bus.set('Control', 0);
    bus.run();
    bus.poke(1);
    bus.advance(10 * FENCE_POLL_US);
    expect(bus.ended(slot, 'copy')).to.equal(false);
    bus.set('Control', vgpu.CONTROL_ENABLE);
    bus.run();
    expect(bus.completion(slot, 'copy')).to.include({ status: ok, result: 1 });
    bus.begin(wait(2), 'copy');
    bus.set('Control', vgpu.CONTROL_RESET);
    bus.program();
    bus.poke(2);
    expect(bus.run(), 'dropped by a reset of the device').to.equal('idle');
    expect(bus.get('RingHead')).to.equal(0);
  });

  it('fault on an unmapped page, also after an unmap, and are refused if misaligned', () => {
    const bus = new Bus();
    const nowhere = 0x1f_f000;
    for (const engine of vgpu.GPU_ENGINE_NAMES)
      for (const command of [wait(1, nowhere), signal(1, nowhere)]) {
        expect(bus.do(command, engine).status).to.equal(fault);
        expect(bus.getOf(engine, 'FaultAddress')).to.equal(nowhere);
      }
    bus.pte(1, DATA + PAGE_SIZE, vgpu.GPU_PTE_PRESENT);
    expect(bus.do(signal(1, PAGE_SIZE)).status, 'read-only').to.equal(fault);
    expect(bus.do(wait(0, PAGE_SIZE)).status).to.equal(ok);
    for (const command of [wait(0, 2), signal(0, 6), wait(0, 2 ** 31), { ...wait(0), context: 1 }])
      expect(bus.do(command).status).to.equal(badCommand);
    bus.set('InterruptStatus', 1023);
    const slot = bus.begin(wait(7), 'compute');
    expect(bus.unmap(DATA, PAGE_SIZE), 'its pin').to.equal(1);
    expect(bus.ended(slot, 'compute')).to.equal(false);
    bus.advance(FENCE_POLL_US);
    expect(bus.completion(slot, 'compute')).to.include({ status: fault });
    expect([bus.get('ComputeFaultAddress'), bus.get('ComputeFaultIova')], 'its page').to.deep.equal([
      0,
      DATA,
    ]);
    expect(bus.get('InterruptStatus')).to.equal(
      vgpu.engineCauses('compute', vgpu.INTERRUPT_FAULT | vgpu.INTERRUPT_COMPLETION),
    );
    expect(bus.violations).to.deep.equal([]);
  });

  it('stall during a switch of the address space, and are polled afterwards', () => {
    const bus = new Bus();
    bus.poke(1);
    bus.switching(true);
    bus.unmap(DATA, PAGE_SIZE);
    const slot = bus.submit(wait(1), 'compute');
    expect(bus.run()).to.equal('stalled');
    expect(bus.run()).to.equal('stalled');
    bus.map({ iova: DATA, gpa: bus.gpa(DATA), size: PAGE_SIZE });
    bus.switching(false);
    expect(bus.run()).to.equal('idle');
    expect(bus.completion(slot, 'compute')).to.include({ status: ok });
    expect(bus.faults).to.deep.equal([]);
  });

  it('migrate with the remaining time to their next poll', () => {
    const bus = new Bus();
    const slot = bus.begin(wait(1), 'compute');
    bus.nowUs += 400;
    const state = bus.save();
    const there = new Bus();
    there.nowUs = 7_000_000;
    there.restore(state);
    there.poke(1);
    there.run();
    there.advance(FENCE_POLL_US - 401);
    expect(there.ended(slot, 'compute')).to.equal(false);
    there.advance(1);
    expect(there.ended(slot, 'compute')).to.equal(true);
  });
});

const LONG = PAGES * PAGE_SIZE;
const PAGE_FLAGS = vgpu.GPU_PTE_PRESENT | vgpu.GPU_PTE_WRITABLE | vgpu.GPU_PTE_VRAM;

/** A vGPU with a neighbour on the same physical GPU. */
function neighbours() {
  const gpu = new PhysicalGpu({ policy: 'best-effort', sliceUs: 500 });
  for (let slot = 0; slot < 2; slot++)
    gpu.place(`gpu${slot}`, vgpuType('vgpu-1g'), new SharedArrayBuffer(DEVICE_LINK_BYTES));
  const bus = new DeviceHarness((context) => new Vgpu(context, DEFAULT_PARTS, gpu.handle(0)));
  bus.enable();
  const set = (register: vgpu.VgpuRegister, value: number) =>
    bus.write(0, vgpu.VGPU_OFFSET[register], 4, value);
  const [ring, table, directory] = [0x1000, 0x4000, 0x5000];
  bus.ram.write32(directory, table | vgpu.GPU_PTE_PRESENT);
  bus.ram.write32(table, DATA | vgpu.GPU_PTE_PRESENT | vgpu.GPU_PTE_WRITABLE);
  set('PageTableBase', directory);
  for (const [i, engine] of vgpu.GPU_ENGINE_NAMES.entries()) {
    set(vgpu.engineRegister(engine, 'RingBase'), ring + i * 0x1000);
    set(vgpu.engineRegister(engine, 'RingEntries'), 2);
    set(vgpu.engineRegister(engine, 'CompletionBase'), 0x8000 + i * 0x1000);
    set(vgpu.engineRegister(engine, 'Control'), vgpu.CONTROL_ENABLE);
  }
  const submit = (engine: vgpu.GpuEngine, command: CommandFields) => {
    const at = ring + vgpu.GPU_ENGINE_NAMES.indexOf(engine) * 0x1000;
    for (const [name, value] of Object.entries(command))
      bus.ram.write32(at + vgpu.CommandWord[name as keyof CommandFields] * 4, value);
    set(vgpu.engineRegister(engine, 'RingTail'), 1);
  };
  const worked = () => {
    const state = bus.model.state!.save();
    return vgpu.GPU_ENGINE_NAMES.map((engine) => Number(state[`${engine}.command.done`] ?? -1));
  };
  const busyUs = () => gpu.stats()[0]!.busyUs;
  return { bus, submit, busyUs, worked, neighbour: new EngineSlot(gpu.handle(1)) };
}

describe('engine slot of a vGPU', () => {
  it('is released during waits, which cost no engine time', () => {
    const { bus, submit, busyUs, neighbour } = neighbours();
    submit('compute', wait(1));
    expect(bus.run()).to.equal('idle');
    const fetched = busyUs();
    expect(neighbour.acquire(), 'at once').to.equal('granted');
    neighbour.release();
    for (let i = 0; i < 100; i++) bus.advance(FENCE_POLL_US);
    expect(busyUs(), 'polls cost no time').to.equal(fetched);
    expect(neighbour.acquire()).to.equal('granted');
    bus.ram.write32(DATA + FENCE, 1);
    bus.advance(FENCE_POLL_US);
    expect(bus.ram.read32(0x9000 + 12), 'the completion waits for its turn').to.equal(0);
    neighbour.release();
    bus.run();
    expect(bus.ram.read32(0x9000 + 4)).to.equal(1);
    expect(busyUs()).to.equal(fetched);
  });

  it('is charged for both engines, and kept while either has work', () => {
    const { bus, submit, busyUs, neighbour } = neighbours();
    submit('copy', { opcode: Opcode.checksum, length: PAGE_SIZE });
    bus.run();
    const summed = busyUs();
    submit('compute', { opcode: Opcode.compute, value: Kernel.fnv1a, length: PAGE_SIZE });
    expect(bus.step()).to.equal('more');
    expect(neighbour.acquire()).to.equal('queued');
    bus.run();
    expect(busyUs() - summed, 'a byte of fnv1a costs 1 ns, one of a checksum half').to.be.within(
      summed + 1,
      3 * summed,
    );
    neighbour.release();
  });

  it('is refused without the loss of a turn: both engines continue after each grant', () => {
    const { bus, submit, worked, neighbour } = neighbours();
    // Every GPU page is the same VRAM page, so that commands have many pieces.
    for (let page = 0; page < 512; page++) bus.ram.write32(0x4000 + page * 8, PAGE_FLAGS);
    submit('copy', { opcode: Opcode.checksum, length: 2 ** 20 });
    submit('compute', { opcode: Opcode.compute, value: Kernel.sum, length: 2 ** 20 });
    for (let i = 0; i < 6; i++) {
      // The request fails while the neighbour owns the engine, and succeeds after its release.
      expect(neighbour.acquire()).to.equal('granted');
      expect(bus.step()).to.equal('idle');
      neighbour.release();
      expect(bus.step()).to.equal('more');
      bus.model.suspend?.();
    }
    expect(worked(), 'three steps each, one of them a fetch').to.deep.equal([2 ** 17, 2 ** 17]);
  });
});
