/**
 * Whole runs of devices that may, or may not, send requests: DMA and messages.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { fixture, runScenario } from './run-command.ts';

describe('Bus Master Enable', function () {
  this.timeout(120_000);

  for (const name of ['bus-master', 'msix-masks'])
    it(`keeps DMA and messages inside a device while it is 0: ${name}`, async () => {
      const { code, summary } = await runScenario(fixture(name));
      expect([code, summary.problems]).to.deep.equal([0, []]);
    });
});
