import { expect } from 'chai';
import { describe, it } from 'mocha';
import { XRGB8888 } from '../../src/abi/scanout.ts';
import * as vgpu from '../../src/abi/vgpu/vgpu.ts';
import { decodeState, encodeState, StateError, type StateValues } from '../../src/proto/state-codec.ts';
import type { RegisterFile } from '../../src/registers/register-file.ts';
import { VgpuBus } from '../fixtures/vgpu-bus.ts';

/** The state of a vgpu in the middle of a checksum over 32 pages. */
function unfinished(): { bus: VgpuBus; values: StateValues } {
  const bus = new VgpuBus();
  bus.program();
  for (let page = 0; page < 32; page++) bus.pte(page, 0x10_0000);
  bus.submit({ opcode: vgpu.Opcode.checksum, length: 32 * 4096, scalar: 0x7fc0_0001 });
  bus.step();
  bus.step();
  return { bus, values: bus.model.state!.save() };
}

function restore(values: StateValues, version = 2): void {
  const { state } = new VgpuBus().model;
  const { version: newest, oldest = newest } = state!;
  state!.restore(decodeState(encodeState('vgpu', version, values), 'vgpu', newest, oldest));
}

describe('saved state of a vgpu', () => {
  it('contains unfinished commands, and no host addresses', () => {
    const { bus, values } = unfinished();
    expect(values['copy.commandRuns']).to.equal(true);
    expect(values['copy.command.done']).to.equal(16 * 4096);
    expect(bus.heldPins).to.equal(16);
    for (const [name, value] of Object.entries(values))
      if (typeof value === 'number') expect(value, name).to.be.below(2 ** 40);
    expect(() => restore(values)).to.not.throw();
  });

  it('is refused if no such device can have this state', () => {
    const { values } = unfinished();
    const wrong: StateValues[] = [
      { 'copy.head': vgpu.RING_ENTRIES_MAX },
      { 'copy.head': 8 },
      { 'copy.ringEntries': 3 },
      { 'copy.ringBase': 2 ** 48 },
      { globalTable: new Uint8Array(8) },
      { displayFrameLeftUs: 1e6 },
      { displayFrameLeftUs: -1 },
      { 'copy.hung': 1 },
      { 'copy.command.done': 32 * 4096 },
      { 'copy.command.length': 2 ** 31 },
      { 'copy.command.status': 9 },
      { 'copy.command.opcode': 99 },
      { 'copy.command.opcode': vgpu.Opcode.nop },
      { 'copy.command.source': 2 ** 52 },
      { 'copy.command.source': 0.5 },
      { 'copy.command.spentNs': -1 },
      { 'copy.command.opcode': vgpu.Opcode.updatePtes, 'copy.command.value': vgpu.GPU_PTE_2M },
      { 'copy.command.opcode': vgpu.Opcode.fill, 'copy.command.done': 4097 },
      { 'copy.command.opcode': vgpu.Opcode.compute, 'copy.command.value': vgpu.Kernel.sum },
      { 'copy.command.opcode': vgpu.Opcode.signal, 'copy.command.done': 0 },
      { 'compute.head': 8 },
      { turn: 2 },
      { fenceLookLeftUs: -1 },
      { fenceLookLeftUs: 2000 },
    ];
    for (const changed of wrong)
      expect(() => restore({ ...values, ...changed }), JSON.stringify(changed)).to.throw(StateError);
    const { 'copy.head': _head, ...without } = values;
    expect(() => restore(without)).to.throw(StateError, 'state of vgpu, copy: head is missing');
  });

  it('contains waits and the progress of kernels, in whole words', () => {
    const bus = new VgpuBus();
    bus.program();
    for (let page = 0; page < 32; page++) bus.pte(page, 0x10_0000);
    bus.submit({ opcode: vgpu.Opcode.compute, value: vgpu.Kernel.saxpy, length: 32 * 4096 });
    bus.submit({ opcode: vgpu.Opcode.wait, source: 8, value: 1 });
    for (let i = 0; i < 3; i++) bus.step();
    const values = bus.model.state!.save();
    expect(values).to.include({ 'copy.command.opcode': vgpu.Opcode.wait, 'copy.looks': false, turn: 0 });
    expect(values).to.include({ 'compute.command.done': 16 * 4096, fenceLookLeftUs: vgpu.FENCE_POLL_US });
    expect(() => restore(values)).to.not.throw();
    for (const changed of [
      { 'compute.command.done': 3 },
      { 'copy.command.length': 8 },
      { 'copy.command.source': 6 },
      { 'compute.command.opcode': vgpu.Opcode.copy },
    ])
      expect(() => restore({ ...values, ...changed }), JSON.stringify(changed)).to.throw(StateError);
  });

  it('is refused if it comes from a vgpu with one engine', () => {
    const { values } = unfinished();
    expect(() => restore(values, 1)).to.throw(StateError, 'version 1; accepted: 2 to 2');
  });

  it('contains the hang limit, also of an engine that runs', () => {
    const bus = new VgpuBus();
    bus.program();
    bus.pte(0, 0x10_0000);
    bus.setOf('compute', 'HangLimitUs', 20_000);
    bus.submit({ opcode: vgpu.Opcode.compute, value: vgpu.Kernel.spin, length: 4 });
    for (let i = 0; i < 3; i++) bus.step();
    const there = new VgpuBus();
    there.restore(bus.save());
    const steps = [bus, there].map((each) => {
      let count = 1;
      while (each.step() === 'more') count++;
      return count;
    });
    expect(there.getOf('compute', 'Status') & vgpu.STATUS_HUNG).to.equal(vgpu.STATUS_HUNG);
    expect(steps[1]).to.equal(steps[0]);
  });

  it('is refused for a display whose picture lies beyond VRAM', () => {
    const { values } = unfinished();
    const { config, state, bars } = new VgpuBus().model;
    expect(config.busMaster).to.equal(true);
    const registers = bars[0] as RegisterFile<vgpu.VgpuRegister>;
    const mode = { DisplayWidth: 64, DisplayHeight: 64, DisplayStride: 256, DisplayFormat: XRGB8888 };
    for (const [name, value] of Object.entries(mode)) registers.set(name as vgpu.VgpuRegister, BigInt(value));
    registers.set('DisplayStatus', BigInt(vgpu.DISPLAY_ON));
    const reader = () => decodeState(encodeState('vgpu', 2, values), 'vgpu', 2);
    expect(() => state!.restore(reader())).to.not.throw();
    registers.set('DisplaySurface', registers.get('VramSize') - 4096n);
    expect(() => state!.restore(reader())).to.throw(StateError, 'the mode is invalid');
  });
});
