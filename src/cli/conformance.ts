/**
 * `mdevsim conformance`: compares recorded vectors with the models. Prints the differences, then the counts.
 */

import { VectorFormatError, type VectorOutcome } from '../conformance/outcome.ts';
import { runSpaprVectors } from '../conformance/spapr/run.ts';
import { runVectorFile } from '../conformance/vfio/run.ts';
import { readJsonFile, readVectorFile, VectorFileError } from '../conformance/vfio/vector-file.ts';
import { runVirtioIommuVectors } from '../conformance/virtio-iommu/run.ts';
import { runVtdVectors } from '../conformance/vtd/run.ts';
import { colours } from '../report/colours.ts';
import { ExitCode } from '../report/summary.ts';
import type { Quirks } from '../viommu/quirks.ts';

type Runner = (path: string, quirks: Quirks) => readonly VectorOutcome[];

/** Runners, by kind of vectors. */
const KINDS: ReadonlyMap<string, Runner> = new Map<string, Runner>([
  ['vfio', (path) => vfioOutcomes(path)],
  ['vtd', (path, quirks) => runVtdVectors(readJsonFile(path), { quirks, file: path })],
  ['virtio-iommu', (path, quirks) => runVirtioIommuVectors(readJsonFile(path), { quirks })],
  ['spapr', (path, quirks) => runSpaprVectors(readJsonFile(path), { quirks })],
]);

export const CONFORMANCE_KINDS: readonly string[] = [...KINDS.keys()];

/** Maximum count of differences printed per vector; `--json` prints all. */
const DIFFERENCES_SHOWN = 10;
/** Maximum count of characters printed of a value. */
const VALUE_LIMIT = 200;

interface ConformanceFlags {
  readonly json?: boolean;
  readonly quirks: Quirks;
}

/** Runs the files in order and prints the outcome; returns the exit code. @throws VectorFileError */
export function conformanceCommand(
  kind: string,
  paths: readonly string[],
  { json, quirks }: ConformanceFlags,
): ExitCode {
  const run = KINDS.get(kind) as Runner;
  const files = paths.map((path) => ({ path, vectors: named(path, () => run(path, quirks)) }));
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

/** Converts the errors of all runners to one type that names the file. @throws VectorFileError */
function named<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof VectorFormatError)) throw error;
    throw new VectorFileError(path, error.message.replace(`${path}: `, ''));
  }
}

function vfioOutcomes(path: string): VectorOutcome[] {
  return runVectorFile(readVectorFile(path)).vectors.map(({ name, verdict, reason, differences }) => ({
    name,
    status: verdict,
    reason,
    failures: differences.map(({ step, op, field, expected, got }) => ({
      step,
      op: `${op} ${field}`,
      expected: valueText(expected),
      got: valueText(got),
    })),
  }));
}

function outcomeLines(path: string, { name, status, reason, failures }: VectorOutcome): string[] {
  if (status === 'passed') return [];
  if (status === 'skipped') return [`- ${path}: ${name} skipped: ${reason ?? 'no reason given'}`];
  const lines = failures
    .slice(0, DIFFERENCES_SHOWN)
    .map(
      ({ step, op, expected, got }) =>
        `${colours.red('✗')} ${path}: ${name} step ${step} ${op}: expected ${cut(expected)}, got ${cut(got)}`,
    );
  const more = failures.length - lines.length;
  return more > 0 ? [...lines, `${colours.red('✗')} ${path}: ${name}: and ${more} more`] : lines;
}

const valueText = (value: unknown): string => JSON.stringify(value) ?? 'absent';

const cut = (text: string): string => (text.length > VALUE_LIMIT ? `${text.slice(0, VALUE_LIMIT)}…` : text);
