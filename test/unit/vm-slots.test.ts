/**
 * Slots of vGPUs on their physical GPU, in a coordinator with real device workers: a vGPU gives its slot back when it
 * fails, and when it stops.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Coordinator } from '../../src/coordinator/coordinator.ts';
import type { Vm } from '../../src/coordinator/vm/vm.ts';
import { workerEntry } from '../../src/coordinator/workers/entries.ts';
import { PhysicalGpu } from '../../src/gpu/physical-gpu.ts';
import type { Hpa } from '../../src/memory/address.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';

const VM = {
  process: 0,
  vm: 0,
  vgpus: 2,
  mdevTypes: [],
  seed: 1,
  hpaBase: HPA_BASE as Hpa,
  ramBytes: 16 * 2 ** 20,
  viommu: 'none',
  scenario: '',
  params: {},
  folder: '',
  model: 'vgpu',
  modelSource: '',
  deviceTimeoutMs: 60_000,
  load: '',
  gpuTypes: [],
  bootUs: 0,
  timeoutMs: 1000,
  inject: '',
  migrations: 0,
  lostDevices: [],
  loadState: '',
};

describe('slots of the vGPUs of a VM', function () {
  this.timeout(120_000);

  it('are released once, by a vGPU that fails and by one that stops', async () => {
    const released: number[] = [];
    const { release } = PhysicalGpu.prototype;
    PhysicalGpu.prototype.release = function (slot) {
      released.push(slot);
      release.call(this, slot);
    };
    const workers = { device: workerEntry('device'), guest: workerEntry('guest') };
    const coordinator = new Coordinator({ vms: [VM], workers, trace: '' });
    try {
      coordinator.start();
      await coordinator.startDevices();
      const [vm] = coordinator.vms as [Vm];
      vm.failed(vm.devices[0]!, 'it was told to');
      expect(released).to.deep.equal([0]);
      await vm.discard();
      expect(released).to.deep.equal([0, 1]);
      await vm.devices[0]?.run?.terminate();
    } finally {
      PhysicalGpu.prototype.release = release;
      await coordinator.close();
    }
  });
});
