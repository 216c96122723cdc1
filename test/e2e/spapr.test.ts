/**
 * The whole path in this process with sPAPR windows in front: coordinator, device workers, guest worker.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runRequest } from '../../src/coordinator/host/host-process.ts';
import { decodeFrame } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';

type VmResult = FrameBodies['vmResult'];

describe('sPAPR windows, in process', function () {
  this.timeout(90_000);

  it('carry verified work; unmapped TCEs and removed windows fault; nothing else does', async () => {
    const results: VmResult[] = [];
    const request = {
      scenario: scenarioUrl('test/fixtures/scenarios/spapr-windows.ts'),
      process: 0,
      vms: [0],
      vgpus: 2,
      seed: 20160728,
      ramMib: 32,
      timeoutMs: 60_000,
      inject: '',
      trace: '',
      viommu: 'spapr',
      baselineWorkers: 0,
      params: '',
    };
    await runRequest(request, {
      send: (bytes) => {
        const frame = decodeFrame(bytes);
        if (frame.kind === 'vmResult') results.push(frame.body);
      },
    });
    expect(results).to.have.length(1);
    const [result] = results as [VmResult];
    expect(result.scriptError).to.equal('');
    expect(result.failures).to.deep.equal([]);
    expect(result.violations).to.deep.equal([]);
    expect(result.failedDevices).to.deep.equal([]);
    expect(result.mismatches).to.equal(0);
    expect(result.faultsUnexpected).to.equal(0);
    // Two devices: five probes in each of two windows, one after the direct window's end.
    expect(result.faultsExpected).to.be.at.least(2 * (5 + 5 + 1));
    expect(result.bytesVerified).to.be.above(2 ** 20);
    expect(result.devices?.pins).to.equal(result.devices?.unpins);
  });
});
