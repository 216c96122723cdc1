import { expect } from 'chai';
import { describe, it } from 'mocha';
import { CONTROL_ENABLE, VGPU_OFFSET } from '../../src/abi/vgpu/vgpu.ts';
import { DEVICE_LINK_BYTES } from '../../src/channel/device-link.ts';
import { DeviceHarness } from '../../src/device/sdk/harness.ts';
import { EngineSlot } from '../../src/gpu/engine-slot.ts';
import { PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import { vgpuType } from '../../src/gpu/types.ts';
import { DEFAULT_PARTS, Vgpu } from '../../src/models/vgpu/vgpu.ts';
import { COMMAND_MEMORY_SPACE } from '../../src/pci/config-space.ts';

/** Enables a vGPU with 60 commands of zeros in its ring. Returns a function that writes a register. */
function enableRing(bus: DeviceHarness) {
  bus.enable();
  const set = (register: keyof typeof VGPU_OFFSET, value: number) =>
    bus.write(0, VGPU_OFFSET[register], 4, value);
  set('RingBase', 0x1000);
  set('RingEntries', 64);
  set('CompletionBase', 0x8000);
  set('Control', CONTROL_ENABLE);
  set('RingTail', 60);
  return set;
}

/** A vGPU that owns the engine and has work in its ring, and a neighbour that waits. */
function neighbours() {
  const gpu = new PhysicalGpu({ policy: 'best-effort', sliceUs: 500 });
  const name = 'vgpu-1g';
  for (let slot = 0; slot < 2; slot++)
    gpu.place(`gpu${slot}`, vgpuType(name), new SharedArrayBuffer(DEVICE_LINK_BYTES));
  const bus = new DeviceHarness((context) => new Vgpu(context, DEFAULT_PARTS, gpu.handle(0)));
  const set = enableRing(bus);
  expect(bus.step()).to.equal('more');
  const neighbour = new EngineSlot(gpu.handle(1));
  expect(neighbour.acquire(), 'while the other owns it').to.equal('queued');
  return { bus, set, neighbour };
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

describe('vGPU that stops its work while it owns the engine', () => {
  const ways: Record<string, (owner: ReturnType<typeof neighbours>) => void> = {
    'when it closes': ({ bus }) => bus.close(),
    'without Bus Master Enable': ({ bus }) => {
      bus.writeConfig(4, 2, BigInt(COMMAND_MEMORY_SPACE));
      expect(bus.step()).to.equal('idle');
    },
    'when the guest disables its ring': ({ bus, set }) => {
      set('Control', 0);
      expect(bus.step()).to.equal('idle');
    },
    'while it waits for a switch of its address space': ({ bus }) => {
      bus.switching(true);
      bus.unmap(0, bus.ram.size);
      expect(bus.step()).to.equal('stalled');
    },
  };
  for (const [when, stop] of Object.entries(ways))
    it(`releases it ${when}`, () => {
      const owner = neighbours();
      stop(owner);
      expect(owner.neighbour.acquire()).to.equal('granted');
    });
});

describe('vGPU whose share is used up', () => {
  it('retries by a timer, each time', () => {
    const gpu = new PhysicalGpu({ policy: 'fixed-share', sliceUs: 500 });
    gpu.place('gpu0', vgpuType('vgpu-512m'), new SharedArrayBuffer(DEVICE_LINK_BYTES));
    const due: (() => void)[] = [];
    const timers = {
      nowUs: () => 0,
      after: (_us: number, action: () => void) => {
        due.push(action);
        return () => {};
      },
    };
    const bus = new DeviceHarness(
      (context) => new Vgpu({ ...context, timers }, DEFAULT_PARTS, gpu.handle(0)),
    );
    const set = enableRing(bus);
    const head = () => Number(bus.read(0, VGPU_OFFSET.RingHead, 4));
    // More work than the share of an engine that was idle before.
    for (let round = 1, tail = 60; round <= 16; round++, tail = (tail + 60) % 64) {
      set('RingTail', tail);
      while (head() !== tail) {
        if (bus.step() === 'more' || head() === tail) continue;
        expect(due, 'timers').to.have.length.above(0);
        for (const action of due.splice(0)) action();
      }
    }
  });
});
