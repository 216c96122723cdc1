import { expect } from 'chai';
import { describe, it } from 'mocha';
import { CONTROL_ENABLE, VGPU_OFFSET } from '../../src/abi/vgpu/vgpu.ts';
import { DEVICE_LINK_BYTES } from '../../src/channel/device-link.ts';
import { DeviceHarness } from '../../src/device/sdk/harness.ts';
import { EngineSlot } from '../../src/gpu/engine-slot.ts';
import { PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import { vgpuType } from '../../src/gpu/types.ts';
import { DEFAULT_PARTS, Vgpu } from '../../src/models/vgpu/vgpu.ts';

/** A vGPU that owns the engine and has work in its ring, and a neighbour that waits. */
function neighbours() {
  const gpu = new PhysicalGpu({ policy: 'best-effort', sliceUs: 500 });
  const name = 'vgpu-1g';
  for (let slot = 0; slot < 2; slot++)
    gpu.place(`gpu${slot}`, vgpuType(name), new SharedArrayBuffer(DEVICE_LINK_BYTES));
  const bus = new DeviceHarness((context) => new Vgpu(context, DEFAULT_PARTS, gpu.handle(0)));
  bus.enable();
  const set = (register: keyof typeof VGPU_OFFSET, value: number) =>
    bus.write(0, VGPU_OFFSET[register], 4, value);
  set('RingBase', 0x1000);
  set('RingEntries', 64);
  set('CompletionBase', 0x8000);
  set('Control', CONTROL_ENABLE);
  set('RingTail', 60); // commands of zeros
  expect(bus.step()).to.equal('more');
  const neighbour = new EngineSlot(gpu.handle(1));
  expect(neighbour.acquire(), 'while the other owns it').to.equal('queued');
  return { bus, neighbour };
}

describe('vGPU stopped for its migration', () => {
  it('releases the engine to its neighbour at once', () => {
    const { bus, neighbour } = neighbours();
    bus.save();
    expect(neighbour.acquire()).to.equal('granted');
    expect(bus.step(), 'it waits for its turn').to.equal('idle');
    neighbour.release();
    expect(bus.step()).to.equal('more');
  });
});
