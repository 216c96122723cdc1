/**
 * A guest drives sPAPR windows in this process, through coordinator, device workers and guest worker.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { expectSoundAndUnpinned } from './expect-sound.ts';
import { runInProcess, type VmResult } from './run-in-process.ts';

describe('sPAPR windows, in process', function () {
  this.timeout(120_000);

  it('carry verified work and fault only for unmapped TCEs and removed windows', async () => {
    const scenario = 'test/fixtures/scenarios/spapr-windows.ts';
    const results = await runInProcess({ scenario, viommu: 'spapr' });
    expect(results).to.have.length(1);
    const [result] = results as [VmResult];
    expectSoundAndUnpinned(result);
    // For two devices: five probes in each of two windows, and one after the removal of the direct window.
    expect(result.faultsExpected).to.be.at.least(2 * (5 + 5 + 1));
    expect(result.bytesVerified).to.be.above(2 ** 20);
  });
});
