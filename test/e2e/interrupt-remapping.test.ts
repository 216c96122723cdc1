/**
 * A device's MSI and MSI-X messages pass through the remapping table of VT-d.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runScenario } from './run-command.ts';

const SCENARIO = 'test/fixtures/field/interrupt-remapping.ts';
const DEVICES = {
  MSI: ['--model', 'edu'],
  'MSI-X': ['--model', 'test/fixtures/models/msix.ts', '--param', 'msix=true'],
} as const;

describe('interrupt remapping', function () {
  this.timeout(120_000);

  for (const viommu of ['intel', 'intel-scalable'])
    for (const [messages, flags] of Object.entries(DEVICES))
      it(`delivers and blocks ${messages} messages by the table: ${viommu}`, async () => {
        const { code, summary } = await runScenario(SCENARIO, '--viommu', viommu, ...flags);
        expect(summary.problems).to.deep.equal([]);
        expect(code).to.equal(0);
        const blocked = summary.notes.filter((note) => /interrupt message to 0xfee\w+ is blocked/.test(note));
        expect(blocked, 'a line for each reason').to.have.length(4);
      });
});
