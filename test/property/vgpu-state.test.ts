import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { XRGB8888 } from '../../src/abi/scanout.ts';
import * as vgpu from '../../src/abi/vgpu/vgpu.ts';
import { PAGE_SIZE } from '../../src/memory/address.ts';
import { MSIX_ENABLE, MSIX_FUNCTION_MASK } from '../../src/pci/msix-format.ts';
import { BUS_RAM_BYTES, VgpuBus } from '../fixtures/vgpu-bus.ts';
import type { CommandFields } from '../fixtures/vgpu-layout.ts';

const RW = vgpu.GPU_PTE_PRESENT | vgpu.GPU_PTE_WRITABLE;
const VRAM = RW | vgpu.GPU_PTE_VRAM;
/** GPU pages 0–31 are RAM across both host frames, and 32–63 VRAM. Page 64 is a hole; 65 lies beyond all memory. */
const RAM_DATA = 0x1f_0000;
const PAGES = 64;
const CONTEXTS = 0x40000;
/** A short limit, so that spins hang after a few steps. */
const HANG_US = 800;
const VRAM_BYTES = 0x4_0000;
/** The saved status of a command that still runs. */
const RUNNING = 255;

class Bus extends VgpuBus {
  setUp(): void {
    this.program();
    for (let page = 0; page < 32; page++) {
      this.pte(page, RAM_DATA + page * PAGE_SIZE);
      this.pte(32 + page, page * PAGE_SIZE, VRAM);
    }
    this.pte(PAGES + 1, 0x800_0000);
    for (const engine of vgpu.GPU_ENGINE_NAMES) this.setOf(engine, 'HangLimitUs', HANG_US);
    this.set('ContextTableBase', CONTEXTS);
    this.set('ContextCount', 2);
    for (let vector = 0; vector < vgpu.VGPU_MSIX.vectors; vector++) this.mask(vector, false);
    this.msix(MSIX_ENABLE);
    this.ram.write(
      this.gpa(RAM_DATA),
      Uint8Array.from({ length: 0x1_0000 }, (_, i) => (i * 13 + (i >> 6)) & 0xff),
    );
  }

  /** Returns the restored device on another host, with other host pages and another clock. */
  move(): Bus {
    const state = this.save();
    const there = new Bus(true);
    there.nowUs = this.nowUs * 3 + 12_345;
    for (let iova = 0; iova < BUS_RAM_BYTES; iova += 0x20_0000)
      there.ram.write(there.gpa(iova), this.bytes(iova, 0x20_0000));
    there.restore(state);
    there.tails = { ...this.tails };
    there.sequence = this.sequence;
    this.close();
    return there;
  }

  get vram(): Buffer {
    const bytes = Buffer.alloc(VRAM_BYTES);
    this.model.memories![0]!.readInto(0, bytes);
    return bytes;
  }
}

type Act = (bus: Bus) => void;

const va = fc.nat(PAGES * PAGE_SIZE - 1);
const lengths = fc.oneof(fc.nat(24 * PAGE_SIZE), fc.constantFrom(4, PAGE_SIZE, 20 * PAGE_SIZE));
const words = fc.nat(0xffff_ffff);
const alignedDown = (value: number) => value - (value % 4);

const commands = fc.oneof(
  fc.record({ target: va, length: lengths, value: words }).map(
    ({ target, length, value }): CommandFields => ({
      opcode: vgpu.Opcode.fill,
      target: alignedDown(target),
      length: alignedDown(length),
      value,
    }),
  ),
  fc
    .record({ target: va, source: va, length: lengths })
    .map((ranges): CommandFields => ({ opcode: vgpu.Opcode.copy, ...ranges })),
  fc
    .record({ source: va, length: lengths })
    .map((ranges): CommandFields => ({ opcode: vgpu.Opcode.checksum, ...ranges })),
  fc.record({ target: va, source: va, length: lengths, value: fc.constantFrom(1, 2, 3) }).map(
    ({ target, source, length, value }): CommandFields => ({
      opcode: vgpu.Opcode.compute,
      target: alignedDown(target),
      source: alignedDown(source),
      length: alignedDown(length),
      value,
      scalar: 0x3f00_0000,
    }),
  ),
  fc.record({ page: fc.nat(31), to: fc.nat(31), flags: fc.constantFrom(RW, VRAM, 0) }).map(
    ({ page, to, flags }): CommandFields => ({
      opcode: vgpu.Opcode.updatePtes,
      target: page * PAGE_SIZE,
      source: flags === RW ? RAM_DATA + to * PAGE_SIZE : to * PAGE_SIZE,
      length: 2 * PAGE_SIZE,
      value: flags,
    }),
  ),
  fc.constantFrom<CommandFields>(
    { opcode: vgpu.Opcode.compute, value: vgpu.Kernel.spin, length: 4 },
    { opcode: vgpu.Opcode.fill, target: PAGES * PAGE_SIZE, length: 4 },
    { opcode: vgpu.Opcode.fill, target: (PAGES + 1) * PAGE_SIZE, length: 4 },
    { opcode: vgpu.Opcode.fill, context: vgpu.GLOBAL_CONTEXT, target: PAGE_SIZE, length: 64, value: 77 },
    { opcode: vgpu.Opcode.checksum, context: 1, source: 0, length: 4 },
    { opcode: 99 },
    { opcode: vgpu.Opcode.nop },
  ),
);

/** Fence words in RAM and VRAM. They and their values are few, so that waits are often reached. */
const FENCE_WORDS = [4, 0x108, 33 * PAGE_SIZE + 16];
const fences = fc
  .record({
    opcode: fc.constantFrom(vgpu.Opcode.signal, vgpu.Opcode.wait, vgpu.Opcode.wait),
    at: fc.oneof(
      { arbitrary: fc.constantFrom(...FENCE_WORDS), weight: 12 },
      fc.constantFrom(6, PAGES * PAGE_SIZE),
    ),
    value: fc.constantFrom(0, 1, 2, 0xffff_ffff, 0x8000_0000),
  })
  .map(({ opcode, at, value }): CommandFields => ({ opcode, target: at, source: at, value }));
const engines = fc.constantFrom(...vgpu.GPU_ENGINE_NAMES);

/** Submits a command to its engine's ring, or seldom to the other one, unless the ring is full. */
const submitted = fc
  .tuple(commands, fc.oneof({ arbitrary: fc.constant(undefined), weight: 15 }, engines))
  .map(
    ([command, other]): Act =>
      (bus) => {
        const engine = other ?? vgpu.engineOf(command.opcode ?? 0);
        if (!bus.isFull(engine)) bus.submit(command, engine);
      },
  );
const fenced = fc.tuple(fences, engines).map(
  ([command, engine]): Act =>
    (bus) => {
      if (!bus.isFull(engine)) bus.submit(command, engine);
    },
);
/** Writes a fence as the guest's CPU, without a doorbell. */
const signalled = fc.tuple(fc.constantFrom(4, 0x108), fc.constantFrom(0, 1, 2, 3)).map(
  ([at, value]): Act =>
    (bus) =>
      bus.ram.write32(bus.gpa(RAM_DATA + at), value),
);
const stepped = fc.integer({ min: 1, max: 4 }).map(
  (steps): Act =>
    (bus) => {
      for (let i = 0; i < steps; i++) bus.step();
    },
);
/** Submits a spin, which reaches the hang limit if it is the first in the ring. */
const spun: Act = (bus) => {
  if (!bus.isFull('compute')) bus.submit({ opcode: vgpu.Opcode.compute, value: vgpu.Kernel.spin, length: 4 });
  for (let i = 0; i < 28; i++) bus.step();
};
const written = fc
  .constantFrom<[vgpu.VgpuRegister, number]>(
    ['Control', vgpu.CONTROL_ENABLE | vgpu.CONTROL_ENGINE_RESET],
    ['Control', 0],
    ['Control', vgpu.CONTROL_ENABLE],
    ['ComputeControl', vgpu.CONTROL_ENABLE | vgpu.CONTROL_ENGINE_RESET],
    ['ComputeControl', vgpu.CONTROL_ENABLE | vgpu.CONTROL_RESET],
    ['ComputeControl', 0],
    ['ComputeControl', vgpu.CONTROL_ENABLE],
    ['InterruptStatus', 1023],
    ['InterruptMask', 0],
    ['InterruptMask', vgpu.engineCauses('compute', vgpu.INTERRUPT_COMPLETION)],
    ['ComputeRingBase', 0x1_1000],
    ['ComputeHangLimitUs', 60],
    ['InterruptMask', vgpu.INTERRUPT_COMPLETION],
    ['RingBase', 0x1_0000],
    ['HangLimitUs', 60],
    ['ContextCount', 1],
    ['ApertureBase', 0x3000],
    ['DisplayWidth', 16],
    ['DisplayHeight', 16],
    ['DisplayStride', 64],
    ['DisplayFormat', XRGB8888],
    ['DisplayBase', 0x2000],
    ['DisplayBase', 0x5000],
    ['DisplayControl', 1],
    ['DisplayControl', 0],
  )
  .map(
    ([name, value]): Act =>
      (bus) =>
        bus.set(name, value),
  );
const displayed: Act = (bus) => {
  for (const [name, value] of [
    ['DisplayWidth', 16],
    ['DisplayHeight', 16],
    ['DisplayStride', 64],
    ['DisplayFormat', XRGB8888],
    ['DisplayControl', 1],
    ['InterruptMask', 0],
  ] as const)
    bus.set(name, value);
};
const masked = fc.tuple(fc.nat(vgpu.VGPU_MSIX.vectors - 1), fc.boolean()).map(
  ([vector, on]): Act =>
    (bus) =>
      bus.mask(vector, on),
);
const controlled = fc.constantFrom(0, MSIX_ENABLE, MSIX_ENABLE, MSIX_ENABLE | MSIX_FUNCTION_MASK).map(
  (control): Act =>
    (bus) =>
      bus.msix(control),
);
const trapped = fc.tuple(fc.nat(2), fc.nat(31), fc.constantFrom(RW, VRAM, 0)).map(
  ([index, page, flags]): Act =>
    (bus) =>
      bus.write(4, index * 8, 8, BigInt((flags === RW ? RAM_DATA : 0) + page * PAGE_SIZE) | BigInt(flags)),
);
const poked = fc.tuple(fc.nat(VRAM_BYTES - 0x4000), words).map(
  ([offset, value]): Act =>
    (bus) =>
      bus.write(2, alignedDown(offset), 4, value),
);
const waited = fc.oneof(fc.nat(2 * vgpu.FENCE_POLL_US), fc.nat(40_000)).map(
  (us): Act =>
    (bus) => {
      bus.nowUs += us;
      bus.step();
    },
);

const acts = fc.oneof(
  { arbitrary: submitted, weight: 6 },
  { arbitrary: fenced, weight: 3 },
  signalled,
  { arbitrary: stepped, weight: 5 },
  written,
  fc.constant(spun),
  fc.constant(displayed),
  masked,
  controlled,
  trapped,
  poked,
  waited,
);

/** Returns all that a guest can see, except its RAM and VRAM. */
const visibleState = (bus: Bus) => ({
  bar0: Buffer.from(bus.readBlock(0, 0, 4096)).toString('hex'),
  globalTable: Buffer.from(bus.readBlock(4, 0, 64)).toString('hex'),
  config: Buffer.from(bus.model.config.bytes()).toString('hex'),
  violations: bus.violations,
  picture: Buffer.from(bus.screenshot() ?? []).toString('hex'),
});

/** Returns true if the engine's command is a pending wait. */
const isWaiting = (bus: Bus, engine: vgpu.GpuEngine): boolean => {
  const state = bus.model.state!.save();
  return (
    state[`${engine}.command.opcode`] === vgpu.Opcode.wait && state[`${engine}.command.status`] === RUNNING
  );
};

describe('migrated vgpu', function () {
  this.timeout(300_000);

  it('continues at any point of any work as if it had not moved', () => {
    let halfWay = 0;
    let hung = 0;
    let waiting = 0;
    let both = 0;
    fc.assert(
      fc.property(
        fc.array(acts, { minLength: 5, maxLength: 50 }),
        fc.array(acts, { minLength: 5, maxLength: 30 }),
        fc.boolean(),
        (before, after, twice) => {
          const stays = new Bus();
          let moves = new Bus();
          for (const bus of [stays, moves]) bus.setUp();
          for (const act of before) for (const bus of [stays, moves]) act(bus);
          const busy = vgpu.GPU_ENGINE_NAMES.filter(
            (engine) => stays.getOf(engine, 'RingHead') !== stays.tails[engine],
          );
          if (stays.heldPins > 0 && busy.length > 0) halfWay++;
          if (busy.length > 1) both++;
          if (vgpu.GPU_ENGINE_NAMES.some((engine) => stays.getOf(engine, 'Status') & vgpu.STATUS_HUNG))
            hung++;
          if (vgpu.GPU_ENGINE_NAMES.some((engine) => isWaiting(stays, engine))) waiting++;
          const there = moves.move();
          expect(there.heldPins, 'no pins after the move').to.equal(0);
          expect(visibleState(there)).to.deep.equal(visibleState(stays));
          const [interrupts, faults] = [[...moves.interrupts], [...moves.faults]];
          moves = there;
          for (const act of after) for (const bus of [stays, moves]) act(bus);
          if (twice) {
            interrupts.push(...moves.interrupts);
            faults.push(...moves.faults);
            moves = moves.move();
          }
          for (const bus of [stays, moves]) {
            for (const engine of vgpu.GPU_ENGINE_NAMES)
              bus.setOf(engine, 'Control', vgpu.CONTROL_ENABLE | vgpu.CONTROL_ENGINE_RESET);
            bus.run();
            bus.advance(vgpu.FENCE_POLL_US);
            bus.msix(MSIX_ENABLE);
            for (let vector = 0; vector < vgpu.VGPU_MSIX.vectors; vector++) bus.mask(vector, false);
          }
          expect(visibleState(moves)).to.deep.equal(visibleState(stays));
          expect([...interrupts, ...moves.interrupts]).to.deep.equal(stays.interrupts);
          expect([...faults, ...moves.faults]).to.deep.equal(stays.faults);
          expect(moves.vram.equals(stays.vram), 'VRAM').to.equal(true);
          expect(moves.bytes(0, 0x20_0000).equals(stays.bytes(0, 0x20_0000)), 'RAM').to.equal(true);
          expect(moves.bytes(0x20_0000, 0x20_0000).equals(stays.bytes(0x20_0000, 0x20_0000))).to.equal(true);
          for (const bus of [stays, moves]) {
            bus.close();
            expect(bus.violations).to.deep.equal([]);
          }
        },
      ),
      { numRuns: 150 },
    );
    expect(halfWay, 'moved in the middle of work').to.be.greaterThan(5);
    expect(hung, 'moved while it hung').to.be.greaterThan(0);
    expect(waiting, 'moved while it waited for a fence').to.be.greaterThan(5);
    expect(both, 'moved with work for both engines').to.be.greaterThan(5);
  });
});
