/**
 * `mdevsim conformance`: compares recorded vectors with the models. Prints the differences, then the counts.
 */

import { Worker } from 'node:worker_threads';
import { after } from '#host';
import type { VectorOutcome } from '../conformance/outcome.ts';
import type { VectorAnswer, VectorTask } from '../conformance/vector-task.ts';
import { VectorFileError } from '../conformance/vfio/vector-file.ts';
import { workerEntry } from '../coordinator/workers/entries.ts';
import { colours } from '../report/colours.ts';
import { ExitCode } from '../report/summary.ts';
import { oneLine } from '../report/text.ts';
import type { Quirks } from '../viommu/quirks.ts';

/** Time limit of one file. The largest recorded one takes half a second. */
const FILE_TIMEOUT_MS = 20_000;
/** V8's heap for one file, MiB. */
const FILE_HEAP = { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 32 };

/** Maximum count of differences printed per vector; `--json` prints all. */
const DIFFERENCES_SHOWN = 10;
/** Maximum count of characters printed of a value. */
const VALUE_LIMIT = 200;

interface ConformanceFlags {
  readonly json?: boolean;
  readonly quirks: Quirks;
}

/** Runs the files in order and prints the outcome; resolves to the exit code. @throws VectorFileError */
export async function conformanceCommand(
  kind: string,
  paths: readonly string[],
  { json, quirks }: ConformanceFlags,
): Promise<ExitCode> {
  const files = await runFiles({ kind, quirks }, paths);
  const count = (status: VectorOutcome['status']) =>
    files.flatMap(({ vectors }) => vectors).filter((vector) => vector.status === status).length;
  const [passed, failed, skipped] = [count('passed'), count('failed'), count('skipped')];
  const lines = files.flatMap(({ path, vectors }) => vectors.flatMap((vector) => outcomeLines(path, vector)));
  const text = json
    ? JSON.stringify({ kind, quirks, passed, failed, skipped, files }, null, 2)
    : [...lines, `${passed} passed, ${failed} failed, ${skipped} skipped`].join('\n');
  process.stdout.write(`${text}\n`);
  return failed === 0 ? ExitCode.ok : ExitCode.failed;
}

interface FileOutcome {
  readonly path: string;
  readonly vectors: readonly VectorOutcome[];
}

/** Runs the files in a worker, which bounds the time and the memory of each. @throws VectorFileError */
async function runFiles(task: VectorTask, paths: readonly string[]): Promise<FileOutcome[]> {
  const worker = new Worker(workerEntry('vectors'), {
    workerData: task,
    resourceLimits: FILE_HEAP,
    execArgv: [...process.execArgv, '--no-warnings'],
  });
  const files: FileOutcome[] = [];
  try {
    for (const path of paths) {
      const answer = await ask(worker, path);
      if ('error' in answer) throw new VectorFileError(path, answer.error.replace(`${path}: `, ''));
      files.push({ path, vectors: answer.vectors });
    }
    return files;
  } finally {
    await worker.terminate();
  }
}

/** Sends a path; resolves to the answer, or to the reason why it is missing. */
async function ask(worker: Worker, path: string): Promise<VectorAnswer> {
  const { promise, resolve } = Promise.withResolvers<VectorAnswer>();
  const fail = ({ message }: Error) => resolve({ error: message });
  const cancel = after(FILE_TIMEOUT_MS, () => fail(new Error(`takes more than ${FILE_TIMEOUT_MS / 1000} s`)));
  worker.once('message', resolve).once('error', fail);
  worker.postMessage(path);
  try {
    return await promise;
  } finally {
    cancel();
    worker.off('message', resolve).off('error', fail);
  }
}

function outcomeLines(path: string, { name, status, reason, failures }: VectorOutcome): string[] {
  if (status === 'passed') return [];
  if (status === 'skipped')
    return [`- ${path}: ${oneLine(name)} skipped: ${oneLine(reason ?? 'no reason given')}`];
  const lines = failures
    .slice(0, DIFFERENCES_SHOWN)
    .map(
      ({ step, op, expected, got }) =>
        `${colours.red('✗')} ${path}: ${oneLine(name)} step ${step} ${op}: expected ${cut(expected)}, got ${cut(got)}`,
    );
  const more = failures.length - lines.length;
  return more > 0 ? [...lines, `${colours.red('✗')} ${path}: ${oneLine(name)}: and ${more} more`] : lines;
}

const cut = (text: string): string =>
  oneLine(text.length > VALUE_LIMIT ? `${text.slice(0, VALUE_LIMIT)}…` : text);
