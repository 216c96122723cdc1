import { expect } from 'chai';
import { describe, it } from 'mocha';
import { decodeState, encodeState, StateError, type StateValues } from '../../src/channel/state-bag.ts';
import * as vgpu from '../../src/pci/vgpu-interface.ts';
import { VgpuBus } from '../fixtures/vgpu-bus.ts';

/** The state of a vgpu in the middle of a checksum over 32 pages. */
function halfDone(): { bus: VgpuBus; values: StateValues } {
  const bus = new VgpuBus();
  bus.program();
  for (let page = 0; page < 32; page++) bus.pte(page, 0x10_0000);
  bus.submit({ opcode: vgpu.Opcode.checksum, length: 32 * 4096, scalar: 0x7fc0_0001 });
  bus.step();
  bus.step();
  return { bus, values: bus.model.state!.save() };
}

function restore(values: StateValues): void {
  const { state } = new VgpuBus().model;
  state!.restore(decodeState(encodeState('vgpu', state!.version, values), 'vgpu', state!.version));
}

describe('the state that a vgpu takes up', () => {
  it('holds what is half done, and no host address', () => {
    const { bus, values } = halfDone();
    expect(values.commandRuns).to.equal(true);
    expect(values['command.done']).to.equal(16 * 4096);
    expect(bus.heldPins).to.equal(16);
    for (const [name, value] of Object.entries(values))
      if (typeof value === 'number') expect(value, name).to.be.below(2 ** 40);
    expect(() => restore(values)).to.not.throw();
  });

  it('is refused if no such device can have been in it', () => {
    const { values } = halfDone();
    const wrong: StateValues[] = [
      { head: vgpu.RING_ENTRIES_MAX },
      { head: 8 },
      { ringEntries: 3 },
      { ringBase: 2 ** 48 },
      { globalTable: new Uint8Array(8) },
      { displayFrameLeftUs: 1e6 },
      { displayFrameLeftUs: -1 },
      { hung: 1 },
      { 'command.done': 32 * 4096 },
      { 'command.length': 2 ** 31 },
      { 'command.status': 9 },
      { 'command.opcode': 99 },
      { 'command.opcode': vgpu.Opcode.nop },
      { 'command.source': 2 ** 52 },
      { 'command.source': 0.5 },
      { 'command.spentNs': -1 },
      { 'command.opcode': vgpu.Opcode.updatePtes, 'command.value': vgpu.GPU_PTE_2M },
      { 'command.opcode': vgpu.Opcode.fill, 'command.done': 4097 },
      { 'command.opcode': vgpu.Opcode.compute, 'command.value': vgpu.Kernel.saxpy, 'command.done': 3 },
    ];
    for (const changed of wrong)
      expect(() => restore({ ...values, ...changed }), JSON.stringify(changed)).to.throw(StateError);
    const { head: _head, ...without } = values;
    expect(() => restore(without)).to.throw(StateError, 'head is missing');
  });
});
