/**
 * The coordinator with real device workers and without a guest.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DeviceState } from '../../src/channel/device-link.ts';
import { REGION_CONFIG } from '../../src/channel/mmio-channel.ts';
import { Coordinator } from '../../src/coordinator/coordinator.ts';
import type { Vm } from '../../src/coordinator/vm/vm.ts';
import { workerEntry } from '../../src/coordinator/workers/entries.ts';
import type { Hpa } from '../../src/memory/address.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { until } from '../support/until.ts';

/** Runs `test` with one VM whose two devices are started. */
async function withVm(test: (vm: Vm) => Promise<void>, model = 'vgpu'): Promise<void> {
  const coordinator = new Coordinator({
    vms: [
      {
        process: 0,
        vm: 0,
        vgpus: 2,
        mdevTypes: [],
        seed: 1,
        hpaBase: HPA_BASE as Hpa,
        ramBytes: 16 * 2 ** 20,
        viommu: 'intel',
        scenario: '',
        params: {},
        folder: '',
        model,
        modelSource: '',
        deviceTimeoutMs: 20_000,
        load: '',
        gpuTypes: [],
        bootUs: 0,
        timeoutMs: 1000,
        inject: '',
        migrations: 0,
        lostDevices: [],
        loadState: '',
      },
    ],
    workers: { device: workerEntry('device'), guest: workerEntry('guest') },
    trace: '',
  });
  coordinator.start();
  await coordinator.startDevices();
  try {
    await test(coordinator.vms[0] as Vm);
  } finally {
    for (const device of (coordinator.vms[0] as Vm).devices) await device.run?.terminate();
    await coordinator.close();
  }
}

describe('the coordinator', function () {
  this.timeout(120_000);

  it('starts every device behind its vIOMMU with an identity mapping', () =>
    withVm(async (vm) => {
      for (const device of vm.devices) {
        expect(device.link.state).to.equal(DeviceState.ready);
        expect(device.space.kind).to.equal('system');
        expect(device.container.liveMappings, 'RAM below and above 4 GiB, and the BARs').to.equal(3);
        expect(device.space.audit()).to.deep.equal([]);
      }
    }));

  it('assigns a part of a physical GPU to vGPUs, but not to other devices', async () => {
    const gpuUsers = async (model: string) => {
      let names: string[] = [];
      await withVm(async (vm) => {
        names = vm.context.gpus.stats().map(({ name }) => name);
      }, model);
      return names;
    };
    expect(await gpuUsers('vgpu')).to.deep.equal(['vm0/gpu0', 'vm0/gpu1']);
    expect(await gpuUsers('edu')).to.deep.equal([]);
    expect(await gpuUsers('vgpu, mtty')).to.deep.equal(['vm0/dev0']);
  });

  it('quarantines a device that sends garbage and keeps serving its neighbour', () =>
    withVm(async (vm) => {
      const [bad, good] = vm.devices;
      bad?.link.fromDevice.push(Uint8Array.of(0xff, 0xff, 0xff));
      vm.serveDevice(0);
      await until(() => bad?.link.state === DeviceState.failed, 'the failure');
      expect(vm.verdict.violations().map(({ kind }) => kind)).to.deep.equal(['bad-frame']);
      expect(bad?.failure).to.match(/^quarantined: sent garbage \(/);
      expect(
        await bad?.link.mmioPort().read(REGION_CONFIG, 0, 4),
        'registers of a failed device read as all ones',
      ).to.equal(0xffff_ffffn);
      expect(await good?.link.mmioPort().read(REGION_CONFIG, 0, 2)).to.equal(0x1234n);
    }));
});
