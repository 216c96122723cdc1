/**
 * Short run of `npm run fuzz -- migration`.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { fuzzMigration, MUTATION_NAMES, recordStream } from './migration.ts';

const SEED = 20261122;
const CASES = 2 * MUTATION_NAMES.length;

describe('migration stream fuzzer', function () {
  this.timeout(120_000);

  it('refuses each broken stream or runs its VM, and then accepts the next one', async () => {
    const frames = await recordStream('intel');
    expect(frames.length).to.be.above(10);
    const endings = await fuzzMigration('intel', frames, SEED, (number) => number < CASES);
    expect(Object.values(endings).reduce((sum, count) => sum + count, 0)).to.equal(CASES);
    expect(endings.migrationFailed).to.be.above(0);
  });
});
