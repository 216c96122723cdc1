/**
 * First light, unchanged, behind every vIOMMU that a scenario can name; in this process.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runRequest } from '../../src/coordinator/host/host-process.ts';
import { decodeFrame } from '../../src/proto/codec.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { scenarioUrl } from '../../src/scenario/load.ts';
import { VIOMMUS } from '../../src/scenario/scenario.ts';
import { IOMMU_NAMES } from '../../src/viommu/create-viommu.ts';

type VmResult = FrameBodies['vmResult'];

async function run(scenario: string, viommu: string, vgpus: number, params = {}): Promise<VmResult> {
  const results: VmResult[] = [];
  const request = {
    scenario: scenarioUrl(scenario),
    process: 0,
    vms: [0],
    vgpus,
    seed: 20160728,
    ramMib: 16,
    timeoutMs: 60_000,
    inject: '',
    trace: '',
    viommu,
    baselineWorkers: 0,
    params: JSON.stringify(params),
  };
  await runRequest(request, {
    send: (bytes) => {
      const frame = decodeFrame(bytes);
      if (frame.kind === 'vmResult') results.push(frame.body);
    },
  });
  expect(results).to.have.length(1);
  return results[0] as VmResult;
}

function expectSound(result: VmResult): void {
  expect(result.scriptError).to.equal('');
  expect(result.failures).to.deep.equal([]);
  expect(result.violations).to.deep.equal([]);
  expect(result.failedDevices).to.deep.equal([]);
  expect(result.mismatches).to.equal(0);
  expect(result.faultsUnexpected).to.equal(0);
  expect(result.devices?.pins).to.equal(result.devices?.unpins);
}

/** What a run behind each word must show. */
interface Word {
  readonly viommu: string;
  readonly params?: Readonly<Record<string, unknown>>;
  /** Announced faults: six probes of the churn and one of the faults phase, for each of two devices. */
  readonly faults: number;
  readonly audits: number;
  readonly notes: readonly RegExp[];
}

const TRANSLATED = { faults: 2 * (6 + 1), audits: 5, notes: [] } as const;

const WORDS: readonly Word[] = [
  { viommu: 'none', faults: 0, audits: 1, notes: [/no vIOMMU: nothing but identity work/] },
  { viommu: 'intel', ...TRANSLATED },
  { viommu: 'intel-scalable', params: { stage: 'second' }, ...TRANSLATED },
  { viommu: 'intel-scalable', params: { stage: 'first' }, ...TRANSLATED },
  { viommu: 'virtio', ...TRANSLATED },
  { viommu: 'spapr', ...TRANSLATED, notes: [/'spapr' tells the guest of no fault/] },
];

describe('every vIOMMU', function () {
  this.timeout(60_000);

  it('has a word, a model and a run here', () => {
    expect([...IOMMU_NAMES].sort()).to.deep.equal([...VIOMMUS].sort());
    expect([...new Set(WORDS.map(({ viommu }) => viommu))].sort()).to.deep.equal([...VIOMMUS].sort());
  });

  for (const { viommu, params = {}, faults, audits, notes } of WORDS)
    it(`first light: ${viommu} ${Object.values(params).join(' ')}`, async () => {
      const result = await run('scenarios/first-light.ts', viommu, 2, params);
      expectSound(result);
      expect(result.faultsExpected).to.equal(faults);
      expect(result.audits).to.equal(audits);
      expect(result.bytesVerified).to.be.above(2 ** 20);
      expect(result.notes).to.have.length(notes.length);
      for (const [i, note] of notes.entries()) expect(result.notes[i]).to.match(note);
    });

  for (const viommu of VIOMMUS)
    it(`many vGPUs: ${viommu}`, async () => {
      expectSound(await run('scenarios/many-vgpus.ts', viommu, 2));
    });
});
