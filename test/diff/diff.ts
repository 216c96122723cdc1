/**
 * `npm run diff:vtd -- --seed N --count M [--qemu PATH] [--only INDEX] [--out DIR]` runs random vectors of a VT-d unit in
 * legacy mode on a real QEMU and on the model. It shrinks each difference and writes it as a vector.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { drawSeed, nowUs } from '#host';
import type { StepFailure } from '../../src/conformance/outcome.ts';
import { runVtdVectors } from '../../src/conformance/vtd/run.ts';
import type { VtdVector } from '../../src/conformance/vtd/vectors.ts';
import { wholeNumber } from '../support/whole-number.ts';
import { generatePlan, planSeed } from './generate.ts';
import type { Plan } from './plan.ts';
import { QemuError, writeFirmware } from './qtest.ts';
import { type Qemu, record } from './record.ts';
import { shrink } from './shrink.ts';
import { adapted, factsOf, normalised, type VersionFact, versionOf } from './versions.ts';

const DEFAULT_COUNT = 100;
const MAX_COUNT = 1_000_000;
const MAX_SEED = 2 ** 31 - 1;
/** Count of machines that run at the same time. */
const PARALLEL = 2;
/** Maximum count of shrunk differences. Further ones are only counted. */
const SHRUNK_LIMIT = 5;
/** Maximum count of vectors at which QEMU may die or hang before the run aborts. */
const BROKEN_LIMIT = 3;
const VERSION_LIMIT_MS = 20_000;
const PROGRAM = 'qemu-system-x86_64';
const FAILURES_SHOWN = 3;

interface Compared {
  readonly vector: VtdVector;
  readonly failures: readonly StepFailure[];
}

class Run {
  readonly #qemu: Qemu;
  readonly #facts: readonly VersionFact[];
  readonly #seed: number;
  readonly #folder: string;
  #broken = 0;
  passed = 0;
  failed = 0;
  /** Device accesses of all vectors. A run in which QEMU blocks everything tests little. */
  letThrough = 0;
  blocked = 0;

  constructor(qemu: Qemu, facts: readonly VersionFact[], seed: number, folder: string) {
    this.#qemu = qemu;
    this.#facts = facts;
    this.#seed = seed;
    this.#folder = folder;
  }

  async all(first: number, count: number): Promise<void> {
    let next = first;
    const worker = async () => {
      while (next < first + count) await this.#plan(next++);
    };
    await Promise.all(Array.from({ length: PARALLEL }, worker));
  }

  async #plan(index: number): Promise<void> {
    const plan = generatePlan(planSeed(this.#seed, index), `legacy-${this.#seed}-${index}`);
    try {
      const { vector, failures } = await this.#compare(plan);
      for (const step of vector.steps) {
        if (step.op !== 'dma_read' && step.op !== 'dma_write') continue;
        if (step.expect === 'ok') this.letThrough++;
        else this.blocked++;
      }
      if (failures.length === 0) {
        this.passed++;
        return;
      }
      this.failed++;
      if (this.failed > SHRUNK_LIMIT) console.log(`✗ ${plan.name}: ${failures.length} steps differ`);
      else await this.#report(plan);
    } catch (error) {
      if (!(error instanceof QemuError) || ++this.#broken > BROKEN_LIMIT) throw error;
      this.failed++;
      console.log(`✗ ${error.message}`);
    }
  }

  async #compare(plan: Plan): Promise<Compared> {
    const recorded = await record(this.#qemu, { ...plan, actions: adapted(plan.actions, this.#facts) });
    const vector = { ...recorded, steps: recorded.steps.map((step) => normalised(step, this.#facts)) };
    const [outcome] = runVtdVectors([vector], { quirks: 'qemu', file: plan.name });
    return { vector, failures: outcome?.failures ?? [] };
  }

  async #report(plan: Plan): Promise<void> {
    const fails = async (actions: Plan['actions']) =>
      (await this.#compare({ ...plan, actions })).failures.length > 0;
    const actions = await shrink(plan.actions, fails, { keeps: isPinned });
    const { vector, failures } = await this.#compare({ ...plan, actions });
    const index = Number(plan.name.split('-').at(-1));
    const path = join(this.#folder, `${plan.name}.json`);
    await mkdir(this.#folder, { recursive: true });
    const replay = `npm run diff:vtd -- --seed ${this.#seed} --count 1 --only ${index}`;
    await writeFile(path, `${JSON.stringify([{ ...vector, notes: `replay: ${replay}` }], null, 1)}\n`);
    console.log(`✗ ${plan.name}: shrunk from ${plan.actions.length} to ${actions.length} actions: ${path}`);
    for (const { step, op, expected, got } of failures.slice(0, FAILURES_SHOWN)) {
      console.log(`    step ${step} ${op} ${JSON.stringify(vector.steps[step])}`);
      console.log(`      QEMU ${expected}, the model ${got}`);
    }
    console.log(`    ${replay}`);
  }
}

/** Translation switches stay. While translation is off a DMA must target RAM, and the plan has fixed the targets. */
const isPinned = ({ kind }: Plan['actions'][number]): boolean => kind === 'translation';

/** @throws QemuError if the program cannot be run */
async function versionText(program: string): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(program, ['--version'], { timeout: VERSION_LIMIT_MS });
    return stdout.split('\n')[0] ?? '';
  } catch {
    throw new QemuError(
      `${program} cannot be run: install Debian's package qemu-system-x86, or name one with --qemu or $QEMU`,
    );
  }
}

async function main(): Promise<void> {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({ options: { seed: text, count: text, qemu: text, only: text, out: text } });
  const seed = wholeNumber('seed', values.seed ?? String(drawSeed()), 1, MAX_SEED);
  const only = values.only === undefined ? undefined : wholeNumber('only', values.only, 0, MAX_COUNT);
  const count =
    only === undefined ? wholeNumber('count', values.count ?? `${DEFAULT_COUNT}`, 1, MAX_COUNT) : 1;
  const program = values.qemu ?? process.env.QEMU ?? PROGRAM;
  const banner = await versionText(program);
  const version = versionOf(banner);
  if (!version) throw new QemuError(`${program} prints no version`);
  const facts = factsOf(version);
  console.log(`diff:vtd: ${banner}, seed ${seed}, ${count} vectors`);
  for (const { what } of facts) console.log(`  not compared in this version: ${what}`);
  const folder = await mkdtemp(join(tmpdir(), 'mdevsim-diff-'));
  const started = nowUs();
  try {
    const qemu = { program, firmware: await writeFirmware(folder) };
    const run = new Run(qemu, facts, seed, values.out ?? join(tmpdir(), 'mdevsim-differences'));
    await run.all(only ?? 0, count);
    const seconds = ((nowUs() - started) / 1e6).toFixed(1);
    console.log(`${seconds} s, ${run.letThrough} device accesses let through, ${run.blocked} blocked`);
    console.log(`${run.passed} passed, ${run.failed} failed`);
    if (run.failed > 0) process.exitCode = 1;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

try {
  await main();
} catch (error) {
  if (!(error instanceof QemuError || error instanceof RangeError || error instanceof TypeError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
