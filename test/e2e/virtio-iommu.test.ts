/**
 * A guest drives a virtio-iommu through coordinator, device workers and guest worker, in this process.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runRequest } from '../../src/coordinator/host/host-process.ts';
import { decodeFrame } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';

type VmResult = FrameBodies['vmResult'];

async function run(vms: number, vgpus: number): Promise<VmResult[]> {
  const results: VmResult[] = [];
  const request = {
    scenario: scenarioUrl('test/fixtures/scenarios/virtio-iommu.ts'),
    process: 0,
    vms: Array.from({ length: vms }, (_, vm) => vm),
    vgpus,
    seed: 20160728,
    ramMib: 32,
    timeoutMs: 60_000,
    inject: '',
    trace: '',
    viommu: 'virtio',
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

describe('virtio-iommu, in process', function () {
  this.timeout(90_000);

  it('works byte for byte through attach, strict churn, bypass domain, detach and blocking', async () => {
    const results = await run(2, 2);
    expect(results).to.have.length(2);
    for (const result of results) {
      expect(result.scriptError).to.equal('');
      expect(result.failures).to.deep.equal([]);
      expect(result.violations).to.deep.equal([]);
      expect(result.failedDevices).to.deep.equal([]);
      expect(result.mismatches).to.equal(0);
      expect(result.faultsUnexpected).to.equal(0);
      expect(result.faultsExpected).to.equal(4);
      // For both devices: the start, attach, bypass domain, back, detach, blocked, identity again.
      expect(result.switches).to.equal(2 * 7);
      expect(result.audits, 'five of the script and the last').to.equal(6);
      expect(result.devices?.pins).to.equal(result.devices?.unpins);
    }
  });
});
