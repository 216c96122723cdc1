/**
 * The whole path in this process, from source: coordinator, device workers, guest workers, first light.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runRequest } from '../../src/coordinator/host/host-process.ts';
import { decodeFrame } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';

type VmResult = FrameBodies['vmResult'];

/** Runs first light with `vms` × `vgpus` and returns each VM's result. */
async function firstLight(vms: number, vgpus: number, inject = ''): Promise<VmResult[]> {
  const results: VmResult[] = [];
  const request = {
    scenario: scenarioUrl('scenarios/first-light.ts'),
    process: 0,
    vms: Array.from({ length: vms }, (_, vm) => vm),
    vgpus,
    seed: 20160728,
    ramMib: 32,
    timeoutMs: 60_000,
    inject,
    trace: '',
    viommu: 'intel',
    baselineWorkers: 0,
    params: '',
  };
  await runRequest(request, {
    send: (bytes) => {
      const frame = decodeFrame(bytes);
      if (frame.kind === 'vmResult') results[frame.header.vm] = frame.body;
    },
  });
  return results;
}

const kindsOf = ({ violations }: VmResult): string[] => violations.map(({ kind }) => kind);

describe('first light, in process', function () {
  this.timeout(90_000);

  it('verifies every byte through every switch, with no violation and no unannounced fault', async () => {
    const results = await firstLight(2, 2);
    expect(results).to.have.length(2);
    for (const result of results) {
      expect(result.scriptError).to.equal('');
      expect(result.failures).to.deep.equal([]);
      expect(result.violations).to.deep.equal([]);
      expect(result.failedDevices).to.deep.equal([]);
      expect(result.mismatches).to.equal(0);
      expect(result.faultsUnexpected).to.equal(0);
      expect(result.faultsExpected).to.be.above(0);
      expect(result.bytesVerified).to.be.above(2 ** 20);
      // Attach, enable, domain change and disable for both devices, pass-through and back for one.
      expect(result.switches).to.equal(2 * 4 + 2);
      expect(result.devices?.pins).to.equal(result.devices?.unpins);
      expect(result.histograms.map(({ name }) => name).sort()).to.deep.equal([
        'interrupt',
        'map',
        'switch',
        'unmap',
      ]);
    }
  });

  it('sees a model that uses a translation after unpin', async () => {
    const [sick, sound] = (await firstLight(2, 2, 'stale-translation')) as [VmResult, VmResult];
    expect(kindsOf(sick)).to.include('use-after-unpin');
    expect(sick.violations[0]?.detail).to.match(/^vm0\/gpu0 /);
    expect(sick.mismatches, 'the bytes show it too').to.be.above(0);
    expect(sound.violations).to.deep.equal([]);
    expect(sound.mismatches).to.equal(0);
  });

  it('sees a model that never unpins, ends it, and goes on', async () => {
    const [sick, sound] = (await firstLight(2, 2, 'never-unpin')) as [VmResult, VmResult];
    expect(kindsOf(sick)).to.deep.equal(['never-unpins']);
    expect(sick.failedDevices).to.have.length(1);
    expect(sick.failedDevices[0]).to.match(/^vm0\/gpu0 quarantined: keeps \d+ pins on 0x/);
    expect(sick.mismatches, 'the other device of the VM is unharmed').to.equal(0);
    expect(sick.scriptError).to.equal('');
    expect(sound.failedDevices).to.deep.equal([]);
  });

  it('sees a guest that skips invalidations', async () => {
    const [sick, sound] = (await firstLight(2, 2, 'skip-invalidation')) as [VmResult, VmResult];
    expect(kindsOf(sick)).to.include('missed-invalidation');
    expect(sick.failures.join('\n')).to.match(/stale translation|no invalidation has announced/);
    expect(sound.violations).to.deep.equal([]);
  });

  it('survives a worker that crashes mid-DMA: its pins are released, its neighbours unharmed', async () => {
    const [sick, sound] = (await firstLight(2, 2, 'worker-crash')) as [VmResult, VmResult];
    expect(sick.failedDevices).to.have.length(1);
    expect(sick.failedDevices[0]).to.match(/^vm0\/gpu0 worker ended: .*\(\d+ pins released\)$/);
    expect(sick.scriptError, 'the guest goes on with its other device').to.equal('');
    expect(sick.mismatches).to.equal(0);
    expect(sound.failedDevices).to.deep.equal([]);
    expect(sound.mismatches).to.equal(0);
  });
});
