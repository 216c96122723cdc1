/**
 * `npm run prove`: runs Spin on every model and mutant of docs/proofs. Prints one line for each run, and exits with 1
 * if a verdict is not the expected one.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { nowUs } from '#host';
import { type ModelRun, RUNS } from './models.ts';

const run = promisify(execFile);

/** Count of concurrent runs; the largest takes about 1 GiB. */
const PARALLEL = Math.min(2, availableParallelism());
/** Maximum depth of a search. A proof that reaches it is invalid; a mutant fails long before. */
const PROOF_DEPTH = 2_000_000;
const MUTANT_DEPTH = 100_000;
/** log2 of the count of hash table slots. */
const PROOF_HASH_BITS = 24;
const MUTANT_HASH_BITS = 20;
/** Memory limit of a run. Beyond it, Spin aborts and the run fails. */
const MEMORY_LIMIT_MIB = 1800;
const TIME_LIMIT_MS = 300_000;
const OUTPUT_LIMIT = 16 * 1024 * 1024;

interface Answer {
  readonly verdict: string;
  readonly states: number;
  readonly depth: number;
  readonly seconds: number;
}

const modelPath = (model: string): string =>
  fileURLToPath(new URL(`../../docs/proofs/${model}.pml`, import.meta.url));

/** Returns the verdict of the verifier's report. */
function verdictOf(report: string, wholeText: boolean): string {
  if (/assertion violated/.test(report)) return 'violated';
  if (/invalid end state \(/.test(report)) return 'hangs';
  if (/acceptance cycle \(/.test(report)) return 'starves';
  if (!/^Full statespace search/m.test(report) || !/errors: 0$/m.test(report)) return 'unreadable report';
  if (/max search depth too small/.test(report)) return 'too deep';
  if (/Search not completed|reached -DMEMLIM/.test(report)) return 'not completed';
  // "(0 of N states)" follows "unreached in proctype X" if all of X was reached.
  const texts = [...report.matchAll(/^unreached in proctype (\w+)\n\t(.*)$/gm)];
  const partly = texts.find(([, , first]) => !first?.startsWith('(0 of '));
  if (wholeText && (texts.length === 0 || partly))
    return `not all of ${partly?.[1] ?? 'the model'} is reached`;
  return 'proved';
}

async function prove(entry: ModelRun, folder: string): Promise<Answer> {
  const { model, defines, expected, claim = false, wholeText = false } = entry;
  const started = nowUs();
  await mkdir(folder);
  const options = { cwd: folder, maxBuffer: OUTPUT_LIMIT, timeout: TIME_LIMIT_MS };
  await run('spin', [...defines.map((name) => `-D${name}`), '-a', modelPath(model)], options);
  const search = claim ? [] : ['-DSAFETY'];
  // A mutant is refuted at once, so compile fast.
  const effort = expected === 'proved' ? '-O2' : '-O0';
  await run('gcc', ['-w', effort, `-DMEMLIM=${MEMORY_LIMIT_MIB}`, ...search, '-o', 'pan', 'pan.c'], options);
  const [depth, bits] =
    expected === 'proved' ? [PROOF_DEPTH, PROOF_HASH_BITS] : [MUTANT_DEPTH, MUTANT_HASH_BITS];
  const { stdout } = await run(
    join(folder, 'pan'),
    [`-m${depth}`, `-w${bits}`, ...(claim ? ['-a', '-f'] : [])],
    options,
  );
  return {
    verdict: verdictOf(stdout, wholeText),
    states: Number(/([\d.e+]+) states, stored/.exec(stdout)?.[1] ?? 0),
    depth: Number(/depth reached (\d+)/.exec(stdout)?.[1] ?? 0),
    seconds: (nowUs() - started) / 1e6,
  };
}

/** Returns a message with the tools that are not installed, if any. */
async function missingTool(): Promise<string | undefined> {
  const missing: string[] = [];
  for (const [tool, flag] of [
    ['spin', '-V'],
    ['gcc', '--version'],
  ] as const)
    await run(tool, [flag]).catch(() => missing.push(tool));
  return missing.length === 0
    ? undefined
    : `${missing.join(' and ')} not found: apt-get install ${missing.join(' ')}`;
}

const line = (...columns: readonly [string, string, string, string, string, string, string]): string => {
  const [model, name, expected, got, ...numbers] = columns;
  const [states, depth, seconds] = numbers;
  const run = `${model.padEnd(10)} ${name.padEnd(26)} ${expected.padEnd(9)} ${got.padEnd(9)}`;
  return `${run} ${states.padStart(9)} ${depth.padStart(9)} ${seconds.padStart(8)}`;
};

async function main(): Promise<void> {
  const missing = await missingTool();
  if (missing) {
    console.error(missing);
    process.exitCode = 1;
    return;
  }
  const scratch = await mkdtemp(join(tmpdir(), 'mdevsim-prove-'));
  try {
    console.log(line('model', 'run', 'expected', 'got', 'states', 'depth', 'seconds'));
    // Each lane takes the next run. The lines are printed in the order of RUNS.
    let next = 0;
    const waiting = RUNS.map(() => Promise.withResolvers<Answer>());
    const lane = async (): Promise<void> => {
      for (let i = next++; i < RUNS.length; i = next++) {
        const folder = join(scratch, String(i));
        await prove(RUNS[i]!, folder).then(waiting[i]!.resolve, (error: unknown) => {
          const reason = error instanceof Error ? error.message.split('\n')[0] : String(error);
          waiting[i]!.resolve({ verdict: `failed: ${reason}`, states: 0, depth: 0, seconds: 0 });
        });
        await rm(folder, { recursive: true, force: true });
      }
    };
    const lanes = Array.from({ length: PARALLEL }, lane);
    let failed = 0;
    for (const [i, { model, name, expected }] of RUNS.entries()) {
      const { verdict, states, depth, seconds } = await waiting[i]!.promise;
      if (verdict !== expected) failed++;
      console.log(
        line(model, name, expected, verdict, String(states), String(depth), seconds.toFixed(1)) +
          (verdict === expected ? '' : '  ✗'),
      );
    }
    await Promise.all(lanes);
    console.log(`${RUNS.length - failed} passed, ${failed} failed`);
    if (failed > 0) process.exitCode = 1;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

await main();
