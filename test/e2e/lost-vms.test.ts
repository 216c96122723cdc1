/**
 * Errors of the coordinator itself: each loses one VM, with the reason, and no other.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { Encode } from '../../src/coordinator/host/host-channel.ts';
import { HostRun } from '../../src/coordinator/host/host-run.ts';
import type { Vm } from '../../src/coordinator/vm/vm.ts';
import { decodeFrame, encodeFrame } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';
import { expectSound } from './expect-sound.ts';
import type { VmResult } from './run-in-process.ts';

type RunRequest = FrameBodies['runRequest'];

const fails = (text: string) => (): never => {
  throw new Error(text);
};

/** Ways to make the coordinator's work for a VM fail. */
const FAULTS: Readonly<Record<string, (vm: Vm) => void>> = {
  'while it serves the registers': ({ iommu }) => {
    iommu.writeRegister = fails('while it serves the registers');
  },
  'while it attaches the devices': ({ iommu }) => {
    iommu.attach = fails('while it attaches the devices');
  },
  'while it serves the devices': (vm) => {
    vm.serveDevice = fails('while it serves the devices');
  },
  'while it starts a device': ({ context }) => {
    context.supervisor.start = fails('while it starts a device');
  },
  'at the end of the VM': ({ verdict }) => {
    verdict.violations = fails('at the end of the VM');
  },
  'while it quarantines a device': (vm) => {
    const [device] = vm.devices;
    if (device) device.fail = fails('while it quarantines a device');
    void device?.quarantine('test', 'is quarantined');
  },
};

/** Runs two VMs in this process with a fault for VM 0; returns their results. */
async function resultsWith(
  fault: (vm: Vm) => void,
  vmSettings: RunRequest['vmSettings'] = [],
): Promise<readonly VmResult[]> {
  const results: VmResult[] = [];
  const request = {
    scenario: scenarioUrl('test/fixtures/scenarios/registers-only.ts'),
    process: 0,
    vms: [0, 1],
    vgpus: 1,
    seed: 7,
    ramMib: 16,
    timeoutMs: 20_000,
    inject: '',
    trace: '',
    viommu: 'intel',
    baselineWorkers: 0,
    params: '{}',
    folder: '',
    vmSettings,
  };
  const frame: Encode = (kind, vm, body, device = -1) =>
    encodeFrame({ timeUs: 0, process: 0, vm, device }, kind, body);
  const run = new HostRun(request, frame, {
    send: (bytes) => {
      const { kind, header, body } = decodeFrame(bytes);
      if (kind === 'vmResult') results[header.vm] = body as VmResult;
    },
  });
  // The supervisor is shared: only this VM's view of it fails.
  const [vm] = run.coordinator.own as [Vm];
  const { supervisor } = vm.context;
  const start: typeof supervisor.start = (task) => supervisor.start(task);
  Object.assign(vm.context, { supervisor: { start } });
  fault(vm);
  await run.start();
  await run.runAll();
  await run.coordinator.close();
  return results;
}

describe('an error of the coordinator', function () {
  this.timeout(60_000);

  for (const [name, fault] of Object.entries(FAULTS))
    it(`loses the VM, and no other: ${name}`, async () => {
      const [first, second] = await resultsWith(fault);
      expect(first?.lost).to.equal(`Error: ${name}`);
      expectSound(second as VmResult);
    });

  it('loses the VM, and no other: while it builds the VM', async () => {
    const own = { vm: 0, ramMib: 16, viommu: 'unheard-of', types: [], bootUs: 0, load: '' };
    const [first, second] = await resultsWith(() => {}, [own]);
    expect(first?.lost).to.match(/unheard-of/);
    expectSound(second as VmResult);
  });
});
