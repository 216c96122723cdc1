/**
 * First light behind VT-d in scalable mode, in this process: second-stage and first-stage tables.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runRequest } from '../../src/coordinator/host/host-process.ts';
import { decodeFrame } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';

type VmResult = FrameBodies['vmResult'];

async function firstLight(viommu: string, stage: string): Promise<VmResult[]> {
  const results: VmResult[] = [];
  const request = {
    scenario: scenarioUrl('scenarios/first-light.ts'),
    process: 0,
    vms: [0],
    vgpus: 2,
    seed: 20160728,
    ramMib: 32,
    timeoutMs: 60_000,
    inject: '',
    trace: '',
    viommu,
    baselineWorkers: 0,
    params: JSON.stringify({ stage }),
  };
  await runRequest(request, {
    send: (bytes) => {
      const frame = decodeFrame(bytes);
      if (frame.kind === 'vmResult') results[frame.header.vm] = frame.body;
    },
  });
  return results;
}

describe('first light in scalable mode', function () {
  this.timeout(90_000);

  for (const stage of ['second', 'first'])
    it(`${stage} stage: every byte through every switch, with no violation`, async () => {
      const [result] = (await firstLight('intel-scalable', stage)) as [VmResult];
      expect(result.scriptError).to.equal('');
      expect(result.failures).to.deep.equal([]);
      expect(result.violations).to.deep.equal([]);
      expect(result.failedDevices).to.deep.equal([]);
      expect(result.mismatches).to.equal(0);
      expect(result.faultsUnexpected).to.equal(0);
      expect(result.faultsExpected).to.be.above(0);
      expect(result.bytesVerified).to.be.above(2 ** 20);
      // As in legacy mode: attach, enable, domain change and disable for both, pass-through and back for one.
      expect(result.switches).to.equal(2 * 4 + 2);
      expect(result.devices?.pins).to.equal(result.devices?.unpins);
    });

  it('says which stages a vIOMMU has', async () => {
    const [result] = (await firstLight('intel', 'first')) as [VmResult];
    expect(result.scriptError).to.match(/no stage 'first' on 'intel'; accepted: second/);
  });
});
