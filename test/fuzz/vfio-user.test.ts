/**
 * Short run of the vfio-user fuzzer. `npm run fuzz -- vfio-user` is the long run.
 */
import { describe, it } from 'mocha';
import { VfioUserFuzzer } from './vfio-user.ts';

const SEED = 20261201;
const CASES = 1000;

describe('vfio-user fuzzer', () => {
  it('ends, does not throw, and leaves no map, pin or file', async function () {
    this.timeout(120_000);
    const fuzzer = new VfioUserFuzzer();
    for (let number = 0; number < CASES; number++)
      try {
        await fuzzer.run(SEED, number);
      } catch (error) {
        throw new Error(`case ${number}: ${error instanceof Error ? error.stack : error}`);
      }
    fuzzer.close();
  });
});
