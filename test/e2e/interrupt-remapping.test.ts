/**
 * A device's MSI and MSI-X messages pass through the remapping table of VT-d.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { expectSound } from './expect-sound.ts';
import { runInProcess, type VmResult } from './run-in-process.ts';

const SCENARIO = 'test/fixtures/field/interrupt-remapping.ts';

describe('interrupt remapping', function () {
  this.timeout(120_000);

  for (const viommu of ['intel', 'intel-scalable'])
    for (const msix of [false, true])
      it(`delivers and blocks ${msix ? 'MSI-X' : 'MSI'} messages by the table: ${viommu}`, async () => {
        const model = msix ? 'test/fixtures/models/msix.ts' : 'edu';
        const run = { viommu, vgpus: 1, ramMib: 16, model, params: { msix } };
        const [result] = (await runInProcess({ ...run, scenario: SCENARIO })) as [VmResult];
        expectSound(result);
        expect(result.checksFailed).to.equal(0);
      });
});
