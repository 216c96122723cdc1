/**
 * `mdevsim explore`: runs schedules of harnesses until a rule is broken, and replays recorded failures.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { nowUs } from '#host';
import { type CampaignResult, firstDifference, replay, runCampaign } from '../explore/campaign.ts';
import { Coverage } from '../explore/coverage.ts';
import { type Failure, FailureFileError, failureOf, parseFailure } from '../explore/failure.ts';
import { KERNELS } from '../explore/kernels/index.ts';
import { countTurns, minimise } from '../explore/minimise.ts';
import type { RunResult } from '../explore/model/run.ts';
import { ModelError } from '../explore/model/runtime.ts';
import { scheduleTable } from '../explore/schedule-table.ts';
import { ReplayError } from '../explore/strategy/guided.ts';
import {
  createStrategy,
  isSearch,
  PREEMPTIONS,
  STRATEGIES,
  type StrategyName,
} from '../explore/strategy/strategies.ts';
import { loadTarget, type NamedHarness, placeOfTarget, type TargetPlace } from '../explore/target.ts';
import { ModelLoadError } from '../explore/transform/loader.ts';
import { Turnstile } from '../explore/turnstile.ts';
import { ExitCode } from '../report/summary.ts';
import { integer } from './option-parsers.ts';
import { packageVersion } from './package-version.ts';
import { UsageError } from './usage.ts';

/** Schedules of one seed by default. */
const SCHEDULES_PER_SEED = 2000;
/** Schedules of a search by default; it ends earlier when it has run all. */
const SCHEDULES_OF_SEARCH = 1_000_000;

interface ExploreFlags {
  readonly strategy: StrategyName;
  readonly seeds: number;
  readonly seed: number;
  readonly schedules?: number;
  readonly time?: number;
  readonly preemptions: number;
  readonly weak?: boolean;
  readonly replay?: string;
  readonly threads?: boolean;
  readonly whole?: boolean;
  readonly coverage?: boolean;
  readonly save?: string;
}

const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

/** Parses a time such as `60s`. Returns milliseconds. */
function duration(text: string): number {
  const [, count, unit] = /^(\d+)(ms|s|m)$/.exec(text) ?? [];
  if (count === undefined) throw new InvalidArgumentError('accepted: 500ms, 60s or 5m');
  return Number(count) * (unit === 'ms' ? 1 : unit === 's' ? 1000 : 60_000);
}

/** Declares the command. */
export function addExplore(command: Command): void {
  command
    .command('explore [target]')
    .description(
      `run harnesses under controlled schedules: a file that exports some, or ${Object.keys(KERNELS).join(', ')}`,
    )
    .addOption(new Option('--strategy <name>', 'chooser of schedules').choices(STRATEGIES).default('pos'))
    .option('--seeds <n>', 'count of seeds', integer(1, 1_000_000), 20)
    .option('--seed <n>', 'first seed', integer(0, 2 ** 31 - 1), 1)
    .option('--schedules <n>', `schedules of each seed (default: ${SCHEDULES_PER_SEED})`, integer(1, 1e9))
    .option('--time <time>', 'time limit, such as 60s', duration)
    .option('--preemptions <n>', 'bound of the strategy `bounded`', integer(0, 64), PREEMPTIONS)
    .option('--weak', 'let plain loads return older values, as the memory model of JavaScript allows')
    .option('--coverage', 'report the pairs of conflicting steps that were seen in one order only')
    .option('--save <file>', 'file of a failure (default: mdevsim-runs/explore-NAME-SEED.json)')
    .option('--replay <file>', 'repeat a recorded failure')
    .option('--whole', 'show all steps, not only those that several threads notice')
    .option('--threads', 'with --replay: repeat it on real threads, too')
    .action(async (target, options) => {
      process.exitCode = await exploreCommand(target, options);
    });
}

/** Explores a target, or replays a failure; returns the exit code. @throws UsageError */
async function exploreCommand(target: string | undefined, flags: ExploreFlags): Promise<ExitCode> {
  try {
    return flags.replay
      ? await replayFailure(flags.replay, target, flags)
      : await exploreTarget(target, flags);
  } catch (error) {
    const expected = [ModelLoadError, FailureFileError, ReplayError, ModelError];
    if (expected.some((type) => error instanceof type)) throw new UsageError((error as Error).message);
    throw error;
  }
}

async function exploreTarget(target: string | undefined, flags: ExploreFlags): Promise<ExitCode> {
  if (target === undefined) throw new UsageError('explore: a target is required without --replay');
  const deadline = flags.time === undefined ? Number.POSITIVE_INFINITY : nowUs() + flags.time * 1000;
  let code: ExitCode = ExitCode.ok;
  for (const named of await loadTarget(placeOfTarget(target)))
    if (exploreOne(target, named, flags, deadline)) code = ExitCode.failed;
  return code;
}

/** Explores one harness. Returns true if a rule is broken. */
function exploreOne(
  target: string,
  { name, harness }: NamedHarness,
  flags: ExploreFlags,
  deadline: number,
): boolean {
  const difference = firstDifference(harness, () => createStrategy('random', flags.seed));
  if (difference) {
    say(`✗ ${name}: one schedule has two traces, so the harness depends on more than its schedule`);
    say(`  step ${difference.step + 1}: first ${difference.first}, then ${difference.second}`);
    return true;
  }
  const search = isSearch(flags.strategy);
  const schedules = flags.schedules ?? (search ? SCHEDULES_OF_SEARCH : SCHEDULES_PER_SEED);
  let [total, steps, seeds, exhausted] = [0, 0, 0, false];
  const started = nowUs();
  const coverage = flags.coverage ? new Coverage() : undefined;
  for (let seed = flags.seed; seed < flags.seed + (search ? 1 : flags.seeds); seed++) {
    const timeMs = (deadline - nowUs()) / 1000;
    if (timeMs <= 0) break;
    const result = runCampaign(harness, {
      strategy: flags.strategy,
      seed,
      schedules,
      ...(Number.isFinite(timeMs) && { timeMs }),
      preemptions: flags.preemptions,
      weak: flags.weak ?? false,
      coverage,
    });
    seeds++;
    total += result.schedules;
    steps += result.steps;
    exhausted = result.exhausted;
    if (result.failure) {
      report(target, { name, harness }, flags, seed, result, result.failure);
      return true;
    }
  }
  const seconds = (nowUs() - started) / 1e6;
  const extent = search ? (exhausted ? 'all of them' : 'not all of them') : `${seeds} seeds`;
  say(
    `✓ ${name}: no rule broken in ${total} schedules (${flags.strategy}, ${extent}), ${steps} steps, ${seconds.toFixed(1)} s`,
  );
  if (coverage) sayCoverage(coverage);
  return false;
}

function sayCoverage(coverage: Coverage): void {
  const { pairs, oneOrder } = coverage;
  say(
    `  ${pairs} pairs of conflicting steps; ${pairs - oneOrder.length} in both orders, ${oneOrder.length} in one only`,
  );
  for (const order of oneOrder) say(`    ${order}`);
}

function report(
  target: string,
  { name, harness }: NamedHarness,
  flags: ExploreFlags,
  seed: number,
  { schedules }: CampaignResult,
  failure: RunResult,
): void {
  const weak = flags.weak ?? false;
  const shortest = minimise(harness, failure, weak);
  const traced = replay(harness, shortest.choices, weak);
  const origin = { mdevsim: packageVersion(), target, harness: name, strategy: flags.strategy, seed, weak };
  const path = flags.save ?? `mdevsim-runs/explore-${name}-${seed}.json`;
  save(path, failureOf({ ...origin, schedule: schedules }, traced));
  say(
    `✗ ${name}: ${failure.violation?.rule}, in schedule ${schedules} of ${flags.strategy} with seed ${seed}`,
  );
  say(`  mdevsim ${origin.mdevsim}, Node ${process.versions.node}`);
  say(`  replay: mdevsim explore --replay ${path}`);
  say(`  turns of threads: ${countTurns(failure.choices)}, minimised to ${countTurns(shortest.choices)}\n`);
  say(scheduleTable(traced, flags.whole));
}

function save(path: string, failure: Failure): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(failure)}\n`);
}

/** Replays a recorded failure. Fails if it is still there, as its exit code says. */
async function replayFailure(
  path: string,
  target: string | undefined,
  { threads, whole }: ExploreFlags,
): Promise<ExitCode> {
  const failure = parseFailure(readFileSync(path, 'utf8'), path);
  const place = placeOfTarget(target ?? failure.target);
  const harnesses = await loadTarget(place);
  const found = harnesses.find(({ name }) => name === failure.harness);
  if (!found) throw new UsageError(`${failure.target} has no harness ${failure.harness} any more`);
  const result = replay(found.harness, failure.choices, failure.weak);
  say(scheduleTable(result, whole));
  if (threads) await replayOnThreads(found, place, result);
  if (result.violation === undefined) {
    say(`✓ ${failure.harness}: the recorded schedule breaks no rule now; it broke ${failure.rule}`);
    return ExitCode.ok;
  }
  const same = result.hash === failure.hash ? 'the recorded trace' : 'another trace than the recorded one';
  say(`\n${failure.harness}: ${result.violation.rule} again, with ${same}`);
  return ExitCode.failed;
}

/** Repeats a schedule on real threads, and compares the traces. */
async function replayOnThreads(
  named: NamedHarness,
  place: TargetPlace,
  { hash, choices }: RunResult,
): Promise<void> {
  const turnstile = new Turnstile(named, place);
  try {
    await turnstile.loaded();
    const result = turnstile.run(choices);
    const same = result.hash === hash ? 'the same trace' : 'another trace';
    say(`on ${Object.keys(named.harness.threads).length} real threads: ${same}, ${result.steps} steps`);
    if (result.violation !== '') say(`✗ ${result.violation}`);
  } finally {
    await turnstile.close();
  }
}
