/**
 * `npm run mutants [-- --only TEXT] [--jobs N] [--list]`: applies each mutant to a copy of the sources and runs the
 * tests that must kill it. Fails if fewer than 97 % are killed, or if any mutant no longer fits the sources.
 *
 * Each job owns one copy, which shares node_modules with the checkout. A mutant is killed if a test fails, if the
 * sources no longer load, or if the tests do not end within the time limit.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { MUTANTS } from './list.ts';
import { type Mutant, mutate } from './mutant.ts';

/** Least part of the mutants that must be killed. */
const KILLED_MIN = 0.97;
/** Time limit of one mutant's tests. */
const TIMEOUT_MS = 120_000;
const ROOT = resolve(import.meta.dirname, '../..');
const COPIED = [
  'src',
  'workers',
  'test',
  'proto',
  'scenarios',
  'docs',
  'biome.json',
  'package.json',
  'tsconfig.json',
];

type Outcome = 'killed' | 'survived';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    jobs: { type: 'string', default: '2' },
    list: { type: 'boolean', default: false },
  },
});

/** Makes a copy of what the tests read. */
function createCopy(): string {
  const copy = mkdtempSync(join(tmpdir(), 'mdevsim-mutants-'));
  for (const path of COPIED) cpSync(join(ROOT, path), join(copy, path), { recursive: true });
  symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'));
  symlinkSync(join(ROOT, 'dist'), join(copy, 'dist'));
  return copy;
}

const running = new Set<ChildProcess>();

/** Runs test files in a copy; resolves to true if they pass. */
function passes(copy: string, tests: readonly string[]): Promise<boolean> {
  const mocha = join(ROOT, 'node_modules/mocha/bin/mocha.js');
  const options = ['--no-config', '--timeout', '20000', '--bail', '--reporter', 'dot', '--exit'];
  const node = ['--conditions=source', '--no-warnings', mocha, ...options, ...tests];
  return new Promise((done) => {
    const child = spawn(process.execPath, node, { cwd: copy, stdio: 'ignore', timeout: TIMEOUT_MS });
    running.add(child);
    child.on('exit', (code) => {
      running.delete(child);
      done(code === 0);
    });
  });
}

/** Applies one mutant, runs its tests and restores the file. */
async function tryMutant(copy: string, mutant: Mutant): Promise<Outcome> {
  const path = join(copy, mutant.file);
  const source = readFileSync(path, 'utf8');
  writeFileSync(path, mutate(mutant, source));
  try {
    return (await passes(copy, mutant.killedBy)) ? 'survived' : 'killed';
  } finally {
    writeFileSync(path, source);
  }
}

/** Runs all mutants on `jobs` copies; resolves to the survivors. */
async function runAll(mutants: readonly Mutant[], jobs: number): Promise<Mutant[]> {
  const queue = [...mutants];
  const survivors: Mutant[] = [];
  let done = 0;
  const job = async () => {
    const copy = createCopy();
    try {
      for (let next = queue.shift(); next; next = queue.shift()) {
        const outcome = await tryMutant(copy, next);
        if (outcome === 'survived') survivors.push(next);
        process.stderr.write(`${++done}/${mutants.length} ${outcome} ${next.id}\n`);
      }
    } finally {
      rmSync(copy, { recursive: true, force: true });
    }
  };
  await Promise.all(Array.from({ length: jobs }, job));
  return survivors;
}

/** Runs every test file of the list alone, on unchanged sources. Resolves to the files that fail: they kill nothing. */
async function failingAnyway(mutants: readonly Mutant[]): Promise<string[]> {
  const copy = createCopy();
  const failing: string[] = [];
  try {
    for (const test of new Set(mutants.flatMap(({ killedBy }) => killedBy)))
      if (!(await passes(copy, [test]))) failing.push(test);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
  return failing;
}

async function main(): Promise<number> {
  const chosen = MUTANTS.filter(({ id }) => id.includes(values.only ?? ''));
  if (chosen.length === 0) {
    process.stderr.write(`no mutant has '${values.only}' in its name\n`);
    return 104;
  }
  if (values.list) {
    for (const { id, file, why } of chosen) process.stdout.write(`${id}  ${file}: ${why}\n`);
    return 0;
  }
  const run = chosen.filter(({ equivalent }) => equivalent === undefined);
  for (const mutant of run) mutate(mutant, readFileSync(join(ROOT, mutant.file), 'utf8'));
  const failing = await failingAnyway(run);
  if (failing.length > 0) {
    process.stderr.write(`fail on the unchanged sources: ${failing.join(', ')}\n`);
    return 1;
  }
  const survivors = await runAll(run, Number(values.jobs));
  const part = (run.length - survivors.length) / run.length;
  for (const { id, file, why } of survivors) process.stdout.write(`survived: ${id} (${file}): ${why}\n`);
  process.stdout.write(
    `${run.length - survivors.length} of ${run.length} mutants killed (${(part * 100).toFixed(1)} %), ` +
      `${chosen.length - run.length} equivalent\n`,
  );
  return part >= KILLED_MIN ? 0 : 1;
}

process.on('SIGINT', () => {
  for (const child of running) child.kill();
  process.exit(105);
});
process.exit(await main());
