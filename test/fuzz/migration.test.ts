/**
 * A bounded run of `npm run fuzz -- migration`.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { fuzzMigration, MUTATION_NAMES, recordStream } from './migration.ts';

const SEED = 20261122;
const CASES = 2 * MUTATION_NAMES.length;

describe('fuzzed migration streams', function () {
  this.timeout(120_000);

  it('are refused or make a VM, and the host takes in the next', async () => {
    const frames = await recordStream('intel');
    expect(frames.length).to.be.above(10);
    const endings = await fuzzMigration('intel', frames, SEED, (number) => number < CASES);
    expect(Object.values(endings).reduce((sum, count) => sum + count, 0)).to.equal(CASES);
    expect(endings.migrationFailed).to.be.above(0);
  });
});
