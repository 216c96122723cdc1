/**
 * A guest drives a virtio-iommu in this process, through coordinator, device workers and guest worker.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { expectSoundAndUnpinned } from './expect-sound.ts';
import { runInProcess } from './run-in-process.ts';

describe('virtio-iommu, in process', function () {
  this.timeout(120_000);

  it('verifies every byte through attach, strict churn, bypass domain, detach and blocking', async () => {
    const scenario = 'test/fixtures/scenarios/virtio-iommu.ts';
    const results = await runInProcess({ scenario, viommu: 'virtio', vms: 2 });
    expect(results).to.have.length(2);
    for (const result of results) {
      expectSoundAndUnpinned(result);
      expect(result.faultsExpected).to.equal(4);
      // For both devices: start, attach, bypass domain, back, detach, blocked, identity again.
      expect(result.switches).to.equal(2 * 7);
      expect(result.audits, 'five by the script and the final one').to.equal(6);
    }
  });
});
