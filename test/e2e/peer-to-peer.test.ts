/**
 * DMA between the devices of a VM, in this process, behind every vIOMMU.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VIOMMUS } from '../../src/scenario/scenario.ts';
import { expectSound } from './expect-sound.ts';
import { vmEnd, withHosts } from './migration-hosts.ts';
import { runInProcess, type VmResult } from './run-in-process.ts';

const SCENARIO = 'test/fixtures/scenarios/peer-to-peer.ts';

describe('DMA between devices', function () {
  this.timeout(120_000);

  const run = async (name: string, viommu: string, model?: 'edu'): Promise<VmResult> => {
    const scenario = `test/fixtures/scenarios/${name}.ts`;
    const results = await runInProcess({ scenario, viommu, ramMib: 16, ...(model && { model }) });
    return results[0] as VmResult;
  };

  for (const viommu of VIOMMUS.filter((each) => each !== 'spapr'))
    it(`reaches a BAR, also both ways at once, and fails when the BAR is off: ${viommu}`, async () => {
      expectSound(await run('peer-to-peer', viommu, 'edu'));
    });

  it('is refused by sPAPR, whose TCEs refer to memory of the partition', async () => {
    const { scriptError } = await run('peer-to-peer', 'spapr', 'edu');
    expect(scriptError).to.match(/^HypercallError: hypercall 0x20: H_PARAMETER/);
  });

  for (const viommu of ['none', 'virtio'])
    it(`continues on another host: ${viommu}`, () =>
      withHosts({ scenario: SCENARIO, viommu, params: { moves: true } }, async (hosts) => {
        hosts.start(0);
        hosts.start(1);
        await vmEnd(hosts, 1);
        const { result } = hosts.received[1]!.results[0]!;
        expectSound(result);
        expect(result.operations, 'exchanges there').to.equal(2);
      }));

  it('moves VRAM from one vGPU to another', async () => {
    expectSound(await run('vgpu-peers', 'none'));
  });
});
