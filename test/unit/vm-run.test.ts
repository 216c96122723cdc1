/**
 * The end of a VM's run, in this process: what its devices and its guest have left undone.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runInProcess } from '../e2e/run-in-process.ts';

const model = new URL('../fixtures/models/keeps-pins.ts', import.meta.url).href;
const scenario = 'test/fixtures/scenarios/ends-untidily.ts';

describe('a VM that ends', function () {
  this.timeout(60_000);

  it('fails for pins that a stopped device has left', async () => {
    const [result] = await runInProcess({
      scenario,
      viommu: 'none',
      vgpus: 1,
      model,
      params: { pins: true },
    });
    expect(result).to.deep.include({ scriptError: '', checksFailed: 0, failedDevices: [] });
    expect(result?.violations).to.deep.equal([
      { kind: 'leaked-pins', detail: 'vm0/dev0 stopped and left 1 pins', repeats: 0 },
    ]);
  });

  it('is audited once more after its script', async () => {
    const inject = 'skip-invalidation';
    const [result] = await runInProcess({ scenario, viommu: 'intel', vgpus: 1, model, inject });
    expect(result).to.deep.include({ scriptError: '', audits: 1, failures: [] });
    expect(result?.violations[0]?.kind).to.equal('missed-invalidation');
  });

  it('has no violation if it is tidy', async () => {
    const [result] = await runInProcess({ scenario, viommu: 'intel', vgpus: 1, model });
    expect(result).to.deep.include({ scriptError: '', audits: 1, violations: [] });
  });
});
