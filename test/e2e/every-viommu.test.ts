/**
 * Runs the same scenarios behind every vIOMMU that a scenario can name, in this process.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VIOMMUS } from '../../src/scenario/scenario.ts';
import { VIOMMU_KINDS } from '../../src/viommu/create-viommu.ts';
import { expectSoundAndUnpinned } from './expect-sound.ts';
import { type InProcessRun, runInProcess, type VmResult } from './run-in-process.ts';

/** Runs one VM and expects a sound result. */
async function run(options: InProcessRun): Promise<VmResult> {
  const results = await runInProcess({ ...options, ramMib: 16 });
  expect(results).to.have.length(1);
  const [result] = results as [VmResult];
  expectSoundAndUnpinned(result);
  return result;
}

/** Expected result of a run behind one vIOMMU. */
interface Expected {
  readonly viommu: string;
  readonly params?: Readonly<Record<string, unknown>>;
  /** Announced faults: six probes of the churn and one of the faults phase, for each of two devices. */
  readonly faults: number;
  readonly audits: number;
  readonly notes: readonly RegExp[];
}

const TRANSLATED = { faults: 2 * (6 + 1), audits: 5, notes: [] } as const;

const RUNS: readonly Expected[] = [
  { viommu: 'none', faults: 0, audits: 1, notes: [/no vIOMMU: nothing but identity work/] },
  { viommu: 'intel', ...TRANSLATED },
  { viommu: 'intel-scalable', params: { stage: 'second' }, ...TRANSLATED },
  { viommu: 'intel-scalable', params: { stage: 'first' }, ...TRANSLATED },
  { viommu: 'amd', ...TRANSLATED },
  { viommu: 'virtio', ...TRANSLATED },
  { viommu: 'spapr', ...TRANSLATED, notes: [/'spapr' reports no faults to the guest/] },
];

describe('each vIOMMU', function () {
  this.timeout(120_000);

  it('has a name, a model and an expected result here', () => {
    expect([...VIOMMU_KINDS].sort()).to.deep.equal([...VIOMMUS].sort());
    expect([...new Set(RUNS.map(({ viommu }) => viommu))].sort()).to.deep.equal([...VIOMMUS].sort());
  });

  for (const { viommu, params = {}, faults, audits, notes } of RUNS)
    it(`first light: ${viommu} ${Object.values(params).join(' ')}`, async () => {
      const result = await run({ scenario: 'scenarios/first-light.ts', viommu, params });
      expect(result.faultsExpected).to.equal(faults);
      expect(result.audits).to.equal(audits);
      expect(result.bytesVerified).to.be.above(2 ** 20);
      expect(result.notes).to.have.length(notes.length);
      for (const [i, note] of notes.entries()) expect(result.notes[i]).to.match(note);
    });

  for (const viommu of VIOMMUS)
    it(`many vGPUs: ${viommu}`, async () => {
      await run({ scenario: 'scenarios/many-vgpus.ts', viommu });
    });
});
