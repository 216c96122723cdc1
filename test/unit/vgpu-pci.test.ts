import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vgpu from '../../src/abi/vgpu/vgpu.ts';
import { DeviceHarness } from '../../src/device/sdk/harness.ts';
import { MODELS } from '../../src/models/index.ts';
import { BarSpace } from '../../src/pci/bar-allocator.ts';
import { COMMAND_BUS_MASTER, COMMAND_MEMORY_SPACE } from '../../src/pci/config-space.ts';
import { CONTROL_FUNCTION_RESET, EXPRESS_CONTROL } from '../../src/pci/express.ts';
import {
  MSIX_CAPABILITY,
  MSIX_ENABLE,
  MSIX_FUNCTION_MASK,
  MSIX_VECTORS_MAX,
  msixCapability,
} from '../../src/pci/msix-format.ts';
import { VgpuBus } from '../fixtures/vgpu-bus.ts';

const { table, pending, vectors } = vgpu.VGPU_MSIX;
const DATA = 0x10_0000;

class Bus extends VgpuBus {
  constructor() {
    super();
    this.program();
    this.pte(0, DATA);
  }
}

const NOP = { opcode: vgpu.Opcode.nop };
const FAULTING = { opcode: vgpu.Opcode.fill, target: 0x1f_f000, length: 4 };

describe('MSI-X of the vgpu', () => {
  it('describes the count of vectors, their table and their pending bits', () => {
    const bus = new Bus();
    expect(bus.readConfig(MSIX_CAPABILITY, 1)).to.equal(0x11n);
    bus.msix(0xffff);
    expect(bus.readConfig(MSIX_CAPABILITY + 2, 2), 'only enable and mask are writable').to.equal(
      BigInt(MSIX_ENABLE | MSIX_FUNCTION_MASK | (vectors - 1)),
    );
    expect(bus.readConfig(MSIX_CAPABILITY + 4, 4)).to.equal(BigInt(table));
    expect(bus.readConfig(MSIX_CAPABILITY + 8, 4)).to.equal(BigInt(pending));
    bus.write(0, table, 8, 0x1234_5678_fee0_1003n);
    bus.write(0, table + 8, 4, 0xdead_beef);
    expect(bus.read(0, table, 8)).to.equal(0x1234_5678_fee0_1000n);
    expect(bus.read(0, table + 8, 8), 'masked at reset').to.equal(0x1_dead_beefn);
    bus.write(0, pending, 8, 15n);
    expect(bus.pendingBits, 'read-only for software').to.equal(0);
    for (const wrong of [0, MSIX_VECTORS_MAX + 1])
      expect(() => msixCapability({ vectors: wrong, bar: 0, table: 0, pending: 0 })).to.throw(
        RangeError,
        'accepted: 1 to 32',
      );
    expect(() => msixCapability({ vectors: 1, bar: 0, table: 4, pending: 0 })).to.throw('multiples of 8');
  });

  it('has separate vectors for completions, errors and the display, and only vector 0 with MSI', () => {
    const bus = new Bus();
    bus.do(FAULTING);
    expect(bus.interrupts.splice(0), 'MSI: a fault and its completion').to.deep.equal([0, 0]);
    bus.msix(MSIX_ENABLE);
    for (let vector = 0; vector < vectors; vector++) bus.mask(vector, false);
    bus.do(NOP);
    bus.do(FAULTING);
    expect(bus.interrupts.splice(0)).to.deep.equal([
      vgpu.VECTOR_COMPLETION,
      vgpu.VECTOR_ERROR,
      vgpu.VECTOR_COMPLETION,
    ]);
    bus.do(NOP, 'compute');
    bus.do({ ...FAULTING, opcode: vgpu.Opcode.signal }, 'compute');
    expect(bus.interrupts, 'fault interrupts of both engines').to.deep.equal([
      vgpu.VECTOR_COMPUTE,
      vgpu.VECTOR_ERROR,
      vgpu.VECTOR_COMPUTE,
    ]);
    bus.msix(0);
    bus.interrupts.splice(0);
    bus.do(NOP, 'compute');
    expect(bus.interrupts, 'MSI again').to.deep.equal([0]);
  });

  it('keeps the interrupt of a masked vector once, and delivers it at unmask', () => {
    const bus = new Bus();
    bus.msix(MSIX_ENABLE);
    bus.mask(1, false);
    for (let i = 0; i < 3; i++) bus.do(NOP);
    expect([bus.interrupts, bus.pendingBits]).to.deep.equal([[], 1]);
    bus.mask(1, true);
    expect(bus.interrupts, 'another vector').to.deep.equal([]);
    bus.mask(0, false);
    expect([bus.interrupts, bus.pendingBits]).to.deep.equal([[0], 0]);
    bus.mask(0, true);
    bus.mask(0, false);
    expect(bus.interrupts, 'once').to.deep.equal([0]);
  });

  it('obeys the function mask, and delivers no pending interrupts while disabled', () => {
    const bus = new Bus();
    for (const vector of [0, 1]) bus.mask(vector, false);
    bus.msix(MSIX_ENABLE | MSIX_FUNCTION_MASK);
    bus.do(FAULTING);
    expect([bus.interrupts, bus.pendingBits]).to.deep.equal([[], 3]);
    bus.msix(0);
    expect(bus.interrupts).to.deep.equal([]);
    bus.mask(1, true);
    bus.msix(MSIX_ENABLE);
    expect([bus.interrupts, bus.pendingBits], 'own mask of vector 1').to.deep.equal([[0], 2]);
    bus.mask(1, false);
    expect([bus.interrupts, bus.pendingBits]).to.deep.equal([[0, 1], 0]);
  });

  it('drops pending interrupts whose causes software has already acknowledged', () => {
    const bus = new Bus();
    bus.msix(MSIX_ENABLE);
    bus.do(FAULTING);
    expect(bus.pendingBits).to.equal(3);
    bus.set('InterruptStatus', vgpu.INTERRUPT_FAULT);
    expect(bus.pendingBits).to.equal(1);
    bus.mask(1, false);
    bus.mask(0, false);
    expect(bus.interrupts).to.deep.equal([0]);
  });

  it('keeps its table at a reset by the device’s own register', () => {
    const bus = new Bus();
    bus.msix(MSIX_ENABLE);
    bus.mask(0, false);
    bus.set('Control', vgpu.CONTROL_RESET);
    bus.program();
    bus.do(NOP);
    expect(bus.interrupts).to.deep.equal([0]);
  });

  it('keeps a masked interrupt also without Bus Master Enable, and loses an unmasked one', () => {
    const bus = new Bus();
    bus.msix(MSIX_ENABLE);
    bus.mask(1, false);
    bus.writeConfig(4, 2, BigInt(COMMAND_MEMORY_SPACE));
    expect([0, 1].map((vector) => bus.model.config.delivered(vector))).to.deep.equal([undefined, undefined]);
    expect(bus.pendingBits).to.equal(1);
  });
});

describe('identity of a model with its own ConfigSpace', () => {
  it('is refused in a definition, by name', () => {
    const identity = { ...vgpu.VGPU_IDENTITY, msix: undefined, express: undefined, wideBars: undefined };
    const define = (more: object) => () =>
      new DeviceHarness({ identity: { ...identity, ...more } as never, bars: {}, create: () => ({}) });
    expect(define({})).to.not.throw();
    for (const [name, value] of [
      ['msix', vgpu.VGPU_MSIX],
      ['express', true],
      ['wideBars', [2]],
    ] as const)
      expect(define({ [name]: value })).to.throw(`identity.${name} is set; accepted: only in a model`);
  });
});

describe('function-level reset of the vgpu', () => {
  const reset = (bus: Bus) => {
    const control = bus.readConfig(EXPRESS_CONTROL, 2);
    bus.writeConfig(EXPRESS_CONTROL, 2, control | CONTROL_FUNCTION_RESET);
  };

  it('clears pins, registers, tables, vectors and VRAM', () => {
    const bus = new Bus();
    const fresh = new DeviceHarness(MODELS.vgpu!);
    bus.msix(MSIX_ENABLE);
    bus.do({ opcode: vgpu.Opcode.fill, length: 4096, value: 1 });
    bus.do(FAULTING);
    bus.write(4, 8, 8, BigInt(DATA | vgpu.GPU_PTE_PRESENT));
    bus.set('ApertureBase', 0x10_0000);
    bus.write(2, 0, 4, 0x5ec1_2e75);
    bus.submit({ opcode: vgpu.Opcode.compute, value: vgpu.Kernel.spin, length: 4 });
    bus.step();
    bus.step();
    expect(bus.heldPins).to.equal(1);
    reset(bus);
    expect(bus.heldPins).to.equal(0);
    expect(Buffer.from(bus.model.config.bytes()).equals(fresh.model.config.bytes()), 'config space').to.equal(
      true,
    );
    expect(bus.read(0, 0, 4), 'memory space is off').to.equal(0xffff_ffffn);
    bus.writeConfig(4, 2, BigInt(COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER));
    fresh.writeConfig(4, 2, BigInt(COMMAND_MEMORY_SPACE | COMMAND_BUS_MASTER));
    expect(Buffer.from(bus.readBlock(0, 0, 4096)).equals(fresh.readBlock(0, 0, 4096)), 'BAR 0').to.equal(
      true,
    );
    expect(bus.read(4, 8, 8), 'global table').to.equal(0n);
    bus.set('ApertureBase', 0x10_0000);
    expect(bus.read(2, 0, 4), 'VRAM').to.equal(0n);
    expect(bus.run()).to.equal('idle');
    bus.program();
    bus.sequence = 100;
    expect(bus.do(NOP).status, 'works again').to.equal(vgpu.CompletionStatus.ok);
  });

  it('reads its bit as 0, keeps the payload size, and ignores other bits of the register', () => {
    const bus = new Bus();
    bus.writeConfig(EXPRESS_CONTROL, 2, 0x0027n);
    expect(bus.get('Status')).to.equal(vgpu.STATUS_RUNNING);
    reset(bus);
    expect(bus.readConfig(EXPRESS_CONTROL, 2)).to.equal(0x2830n);
    expect(bus.readConfig(4, 2)).to.equal(0n);
  });
});

describe('placement of 64-bit BARs', () => {
  it('keeps them apart from other BARs, and uses the next BAR as the upper half', () => {
    const space = new BarSpace(2);
    const sized = [0xffff_f000, 0, 0xff00_000c, 0xffff_ffff, 0xffff_c000];
    expect(sized.map((value) => space.place(value).toString(16))).to.deep.equal([
      '82000000',
      '0',
      'c2000000',
      '0',
      '82004000',
    ]);
  });

  it('sizes them like other BARs, with a fully writable upper half', () => {
    const bus = new Bus();
    bus.writeConfig(0x18, 4, 0xffff_ffffn);
    bus.writeConfig(0x1c, 4, 0xffff_ffffn);
    expect(bus.readConfig(0x18, 4)).to.equal(BigInt((-vgpu.APERTURE_BYTES | 0xc) >>> 0));
    expect(bus.readConfig(0x1c, 4)).to.equal(0xffff_ffffn);
  });
});

describe('docs/vgpu.md', () => {
  it('has every register at its offset', () => {
    const text = readFileSync(new URL('../../docs/vgpu.md', import.meta.url), 'utf8');
    const rows = [...text.matchAll(/^\| (0x[0-9a-f]+) \| (\w+) \|/gm)].map(([, at, name]) => [
      name,
      Number(at),
    ]);
    expect(rows).to.deep.equal(
      vgpu.VGPU_REGISTERS.map(({ name, offset }) => [name, offset]).sort(
        (a, b) => Number(a[1]) - Number(b[1]),
      ),
    );
  });
});
