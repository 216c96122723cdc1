/**
 * `npm run fuzz -- viommu --seconds 60 --seed N` sends garbage to the vIOMMUs; `--kind K --case N` replays one case.
 * `npm run fuzz -- migration --seconds 60 --seed N` sends broken streams to a host that accepts VMs.
 * `npm run fuzz -- vfio-user --seconds 60 --seed N` sends broken messages to served devices; `--case N` replays one.
 */
import { parseArgs } from 'node:util';
import { drawSeed, nowUs } from '#host';
import { VIOMMUS } from '../../src/scenario/scenario.ts';
import { wholeNumber } from '../support/whole-number.ts';
import { fuzzMigration, recordStream } from './migration.ts';
import { VfioUserFuzzer } from './vfio-user.ts';
import { type Failed, fuzz, KIND_NAMES, type Kind } from './viommu.ts';

const DEFAULT_SECONDS = 60;
const MAX_SECONDS = 24 * 3600;
const MAX_SEED = 2 ** 31 - 1;
const MAX_CASE = 2 ** 31 - 1;
/** Maximum count of printed failures. */
const PRINTED = 10;

/** @throws RangeError */
function kindsOf(text: string | undefined): readonly Kind[] {
  if (text === undefined) return KIND_NAMES;
  const found = KIND_NAMES.find((kind) => kind === text);
  if (!found) throw new RangeError(`--kind ${text}; accepted: ${KIND_NAMES.join(', ')}`);
  return [found];
}

function printFailure(seed: number, { kind, number, error }: Failed): void {
  console.log(`✗ seed ${seed}, ${kind} case ${number}: ${error instanceof Error ? error.stack : error}`);
  console.log(`  npm run fuzz -- viommu --kind ${kind} --seed ${seed} --case ${number}`);
}

/** Breaks the streams of each vIOMMU for its share of the time. @throws Error when a host no longer accepts a valid VM */
async function breakStreams(seed: number, seconds: number): Promise<void> {
  console.log(`fuzz migration: ${VIOMMUS.join(', ')}; seed ${seed}`);
  let cases = 0;
  for (const viommu of VIOMMUS) {
    const frames = await recordStream(viommu);
    const start = nowUs();
    const more = () => nowUs() - start < (seconds / VIOMMUS.length) * 1e6;
    const endings = await fuzzMigration(viommu, frames, seed, more);
    const counts = Object.entries(endings).map(([ending, count]) => `${count} ${ending}`);
    console.log(`${viommu}: ${counts.join(', ')}`);
    cases += Object.values(endings).reduce((sum, count) => sum + count, 0);
  }
  console.log(`${cases} passed, 0 failed`);
}

/** Runs cases against served devices. Each case has its own connection. Returns the count of failed ones. */
async function fuzzVfioUser(seed: number, first: number, more: (number: number) => boolean): Promise<number> {
  console.log(`fuzz vfio-user: seed ${seed}`);
  const fuzzer = new VfioUserFuzzer();
  const start = nowUs();
  let failed = 0;
  let number = first;
  for (; more(number); number++)
    try {
      await fuzzer.run(seed, number);
    } catch (error) {
      if (failed++ >= PRINTED) continue;
      console.log(`✗ seed ${seed}, case ${number}: ${error instanceof Error ? error.stack : error}`);
      console.log(`  npm run fuzz -- vfio-user --seed ${seed} --case ${number}`);
    }
  fuzzer.close();
  const cases = number - first;
  console.log(`${((cases * 1e6) / (nowUs() - start)).toFixed(0)} cases per second`);
  console.log(`${cases - failed} passed, ${failed} failed`);
  return failed;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: 'string' },
      seed: { type: 'string' },
      kind: { type: 'string' },
      case: { type: 'string' },
      cases: { type: 'string' },
    },
  });
  const [what = ''] = positionals;
  if (positionals.length !== 1 || !['viommu', 'migration', 'vfio-user'].includes(what))
    throw new RangeError(`fuzz ${positionals.join(' ')}; accepted: viommu, migration, vfio-user`);
  const seconds = wholeNumber('seconds', values.seconds ?? String(DEFAULT_SECONDS), 1, MAX_SECONDS);
  const seed = wholeNumber('seed', values.seed ?? String(drawSeed()), 1, MAX_SEED);
  const first = values.case === undefined ? 0 : wholeNumber('case', values.case, 0, MAX_CASE);
  const count = values.cases === undefined ? undefined : wholeNumber('cases', values.cases, 1, MAX_CASE);
  if (what === 'migration') return breakStreams(seed, seconds);
  const kinds = kindsOf(values.kind);
  const start = nowUs();
  const limit = values.case === undefined ? count : (count ?? 1);
  const more = (number: number) =>
    limit === undefined ? nowUs() - start < seconds * 1e6 : number < first + limit;
  if (what === 'vfio-user') {
    if ((await fuzzVfioUser(seed, first, more)) > 0) process.exitCode = 1;
    return;
  }
  console.log(`fuzz viommu: ${kinds.join(', ')}; seed ${seed}`);
  const { passed, failed, digest } = await fuzz(kinds, seed, first, more);
  for (const failure of failed.slice(0, PRINTED)) printFailure(seed, failure);
  const cases = passed + failed.length;
  const rate = (cases * 1e6) / (nowUs() - start);
  console.log(`${rate.toFixed(0)} cases per second; digest of ${cases} cases: ${digest}`);
  console.log(`${passed} passed, ${failed.length} failed`);
  if (failed.length > 0) process.exitCode = 1;
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
