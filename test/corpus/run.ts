/**
 * `npm run explore -- corpus|table|replays|hashes|bounded|nightly [NAME]`: runs over the corpus and over the harnesses of the
 * kernels. `NAME` limits them to the entries whose names contain it.
 *
 * - `corpus`: each fault is found within its budget, and each correct program survives the budget.
 * - `table`: schedules to each fault by strategy, for 20 seeds, as docs/exploring-corpus.md.
 * - `replays`: 1,000 failures of the model repeat exactly.
 * - `hashes`: 10,000 schedules have the same trace twice.
 * - `bounded`: all schedules of each kernel with at most 2 preemptions.
 * - `nightly`: 10 million schedules of the kernels.
 */
import { writeFileSync } from 'node:fs';
import { nowUs } from '#host';
import { type CampaignOptions, replay, runCampaign } from '../../src/explore/campaign.ts';
import type { Harness } from '../../src/explore/harness.ts';
import { KERNELS } from '../../src/explore/kernels/index.ts';
import type { StrategyName } from '../../src/explore/strategy/strategies.ts';
import { loadTarget, placeOfTarget } from '../../src/explore/target.ts';
import type { CorpusEntry } from './entry.ts';
import { CORPUS } from './list.ts';
import { loadCorrect, loadFaulty } from './load.ts';
import { corpusTable, type Measured, SEEDS, TABLE_LIMIT } from './table.ts';

const NIGHTLY_SCHEDULES = 10_000_000;
const REPLAYS = 1000;
const HASHES = 10_000;
const COLUMNS: readonly StrategyName[] = ['pos', 'random', 'pct', 'surw', 'bounded'];

const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

const options = (
  entry: CorpusEntry,
  strategy: StrategyName,
  seed: number,
  schedules: number,
): CampaignOptions => ({
  strategy,
  seed,
  schedules,
  weak: entry.weak ?? false,
});

/** Runs partial-order sampling. Returns false if a fault is not found within its budget, or a correct program fails. */
async function checkEntry(entry: CorpusEntry): Promise<boolean> {
  const faulty = runCampaign(await loadFaulty(entry), options(entry, 'pos', 1, entry.budget));
  const correct = runCampaign(await loadCorrect(entry), options(entry, 'pos', 1, entry.budget));
  const rule = faulty.failure?.violation?.rule;
  const found = rule !== undefined && entry.rules.includes(rule);
  const survived = correct.failure === undefined;
  const outcome = found
    ? `found in ${faulty.schedules}: ${rule}`
    : `not found in ${entry.budget}: ${rule ?? 'no failure'}`;
  const control = survived ? '' : `; the correct program fails: ${correct.failure?.violation?.message}`;
  say(`${found && survived ? '✓' : '✗'} ${entry.id.padEnd(38)} ${outcome}${control}`);
  return found && survived;
}

async function checkCorpus(entries: readonly CorpusEntry[]): Promise<boolean> {
  let failed = 0;
  for (const entry of entries) if (!(await checkEntry(entry))) failed++;
  say(`${entries.length - failed} of ${entries.length} entries found, their correct programs survive`);
  return failed === 0;
}

function measure(entry: CorpusEntry, faulty: Harness, strategy: StrategyName): Measured {
  const seeds = strategy === 'bounded' ? 1 : SEEDS;
  const found: number[] = [];
  for (let seed = 1; seed <= seeds; seed++) {
    const { failure, schedules } = runCampaign(faulty, options(entry, strategy, seed, TABLE_LIMIT));
    if (failure) found.push(schedules);
  }
  return { found: found.sort((a, b) => a - b), seeds };
}

async function writeTable(entries: readonly CorpusEntry[], whole: boolean): Promise<boolean> {
  const rows: { readonly entry: CorpusEntry; readonly cells: readonly Measured[] }[] = [];
  for (const entry of entries) {
    const faulty = await loadFaulty(entry);
    const cells = COLUMNS.map((strategy) => measure(entry, faulty, strategy));
    rows.push({ entry, cells });
    process.stderr.write(
      `${entry.id}: ${cells.map(({ found, seeds }) => `${found.length}/${seeds}`).join(' ')}\n`,
    );
  }
  const text = corpusTable(COLUMNS, rows);
  if (whole) writeFileSync(new URL('../../docs/exploring-corpus.md', import.meta.url), text);
  else say(text);
  return rows.every(({ cells }) => cells.some(({ found }) => found.length > 0));
}

/** Finds failures with many seeds, and repeats each. */
async function checkReplays(entries: readonly CorpusEntry[]): Promise<boolean> {
  let [found, same] = [0, 0];
  const loaded = [];
  for (const entry of entries) loaded.push({ entry, faulty: await loadFaulty(entry) });
  for (let seed = 1; found < REPLAYS; seed++)
    for (const { entry, faulty } of loaded) {
      const { failure } = runCampaign(faulty, options(entry, 'pos', seed, 200));
      if (!failure || found === REPLAYS) continue;
      found++;
      const again = replay(faulty, failure.choices, entry.weak ?? false);
      if (again.hash === failure.hash && again.violation?.rule === failure.violation?.rule) same++;
    }
  say(`${same} of ${found} failures replayed with the same trace and rule`);
  return same === found;
}

async function kernelHarnesses(
  only: string,
): Promise<{ readonly name: string; readonly harness: Harness }[]> {
  const all = [];
  for (const name of Object.keys(KERNELS))
    if (name.includes(only)) all.push(...(await loadTarget(placeOfTarget(name))));
  return all;
}

/** Runs schedules twice and compares the hashes of their traces. */
async function checkHashes(only: string): Promise<boolean> {
  const harnesses = await kernelHarnesses(only);
  const each = Math.ceil(HASHES / harnesses.length);
  let [total, same] = [0, 0];
  for (const { harness } of harnesses) {
    const hashes = [0, 1].map(() => {
      const list: number[] = [];
      runCampaign(harness, { strategy: 'random', seed: 1, schedules: each }, ({ hash }) => list.push(hash));
      return list;
    });
    total += each;
    same += (hashes[0] as number[]).filter((hash, i) => hash === hashes[1]?.[i]).length;
  }
  say(`${same} of ${total} schedules have the same trace in two runs`);
  return same === total;
}

async function checkBounded(only: string): Promise<boolean> {
  let sound = true;
  const started = nowUs();
  for (const { name, harness } of await kernelHarnesses(only)) {
    const { failure, schedules, exhausted } = runCampaign(harness, {
      strategy: 'bounded',
      seed: 1,
      schedules: Number.POSITIVE_INFINITY,
      preemptions: 2,
    });
    sound &&= failure === undefined && exhausted;
    say(
      `${failure ? '✗' : '✓'} ${name.padEnd(16)} ${schedules} schedules ${failure?.violation?.message ?? ''}`,
    );
  }
  say(`${((nowUs() - started) / 1e6).toFixed(1)} s`);
  return sound;
}

async function runNightly(only: string): Promise<boolean> {
  const harnesses = await kernelHarnesses(only);
  const rounds: readonly StrategyName[] = ['pos', 'surw', 'random', 'pct'];
  const each = Math.ceil(NIGHTLY_SCHEDULES / harnesses.length / rounds.length);
  const seed = Math.floor(nowUs()) % 2 ** 31;
  let sound = true;
  say(`seed ${seed}`);
  for (const { name, harness } of harnesses)
    for (const strategy of rounds) {
      const { failure, schedules } = runCampaign(harness, { strategy, seed, schedules: each });
      sound &&= failure === undefined;
      say(
        `${failure ? '✗' : '✓'} ${name.padEnd(16)} ${strategy} ${schedules} ${failure?.violation?.message ?? ''}`,
      );
    }
  return sound;
}

async function main([command = '', only = '']: readonly string[]): Promise<boolean> {
  const entries = CORPUS.filter(({ id }) => id.includes(only));
  switch (command) {
    case 'corpus':
      return checkCorpus(entries);
    case 'table':
      return writeTable(entries, only === '');
    case 'replays':
      return checkReplays(entries);
    case 'hashes':
      return checkHashes(only);
    case 'bounded':
      return checkBounded(only);
    case 'nightly':
      return runNightly(only);
    default:
      say('accepted: corpus, table, replays, hashes, bounded, nightly');
      return false;
  }
}

process.exitCode = (await main(process.argv.slice(2))) ? 0 : 1;
