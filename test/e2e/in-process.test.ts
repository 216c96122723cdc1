/**
 * First light in this process: the whole path, with and without injected faults.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { expectSoundAndUnpinned } from './expect-sound.ts';
import { runInProcess, type VmResult } from './run-in-process.ts';

const VMS = 2;

const firstLight = (inject = ''): Promise<VmResult[]> =>
  runInProcess({ scenario: 'scenarios/first-light.ts', viommu: 'intel', vms: VMS, inject });

const kindsOf = ({ violations }: VmResult): string[] => violations.map(({ kind }) => kind);

describe('first light, in process', function () {
  this.timeout(120_000);

  it('verifies every byte through every switch, with no violation and no unannounced fault', async () => {
    const results = await firstLight();
    expect(results).to.have.length(VMS);
    for (const result of results) {
      expectSoundAndUnpinned(result);
      expect(result.faultsExpected).to.be.above(0);
      expect(result.bytesVerified).to.be.above(2 ** 20);
      // Attach, enable, domain change and disable for both devices; pass-through and back for one.
      expect(result.switches).to.equal(2 * 4 + 2);
      expect(result.histograms.map(({ name }) => name).sort()).to.deep.equal([
        'interrupt',
        'map',
        'switch',
        'unmap',
      ]);
    }
  });

  it('detects a model that uses a translation after unpin', async () => {
    const [faulty, healthy] = (await firstLight('stale-translation')) as [VmResult, VmResult];
    expect(kindsOf(faulty)).to.include('use-after-unpin');
    expect(faulty.violations[0]?.detail).to.match(/^vm0\/gpu0 /);
    expect(faulty.mismatches, 'bytes differ, too').to.be.above(0);
    expect(healthy.violations).to.deep.equal([]);
    expect(healthy.mismatches).to.equal(0);
  });

  it('detects a model that never unpins, ends its device, and continues', async () => {
    const [faulty, healthy] = (await firstLight('never-unpin')) as [VmResult, VmResult];
    expect(kindsOf(faulty)).to.deep.equal(['never-unpins']);
    expect(faulty.failedDevices).to.have.length(1);
    expect(faulty.failedDevices[0]).to.match(/^vm0\/gpu0 quarantined: keeps \d+ pins on 0x/);
    expect(faulty.mismatches, 'of the other device of the VM').to.equal(0);
    expect(faulty.scriptError).to.equal('');
    expect(healthy.failedDevices).to.deep.equal([]);
  });

  it('detects a guest that skips invalidations', async () => {
    const [faulty, healthy] = (await firstLight('skip-invalidation')) as [VmResult, VmResult];
    expect(kindsOf(faulty)).to.include('missed-invalidation');
    expect(faulty.failures.join('\n')).to.match(/stale translation|no invalidation has announced/);
    expect(healthy.violations).to.deep.equal([]);
  });

  it('releases the pins of a worker that crashes in the middle of a DMA access, and harms no neighbour', async () => {
    const [faulty, healthy] = (await firstLight('worker-crash')) as [VmResult, VmResult];
    expect(faulty.failedDevices).to.have.length(1);
    expect(faulty.failedDevices[0]).to.match(/^vm0\/gpu0 worker ended: .*\(\d+ pins released\)$/);
    expect(faulty.scriptError, 'the guest continues with its other device').to.equal('');
    expect(faulty.mismatches).to.equal(0);
    expect(healthy.failedDevices).to.deep.equal([]);
    expect(healthy.mismatches).to.equal(0);
  });
});
