/**
 * First light behind VT-d in scalable mode, in this process: second-stage and first-stage tables.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { expectSoundAndUnpinned } from './expect-sound.ts';
import { runInProcess, type VmResult } from './run-in-process.ts';

async function firstLight(viommu: string, stage: string): Promise<VmResult> {
  const [result] = await runInProcess({ scenario: 'scenarios/first-light.ts', viommu, params: { stage } });
  return result as VmResult;
}

describe('first light in scalable mode', function () {
  this.timeout(120_000);

  for (const stage of ['second', 'first'])
    it(`verifies every byte through every switch: ${stage} stage`, async () => {
      const result = await firstLight('intel-scalable', stage);
      expectSoundAndUnpinned(result);
      expect(result.faultsExpected).to.be.above(0);
      expect(result.bytesVerified).to.be.above(2 ** 20);
      // As in legacy mode: attach, enable, domain change and disable for both, pass-through and back for one.
      expect(result.switches).to.equal(2 * 4 + 2);
    });

  it('names the stages of a vIOMMU', async () => {
    const { scriptError } = await firstLight('intel', 'first');
    expect(scriptError).to.match(/no stage 'first' on 'intel'; accepted: second/);
  });
});
