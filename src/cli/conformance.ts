/**
 * `mdevsim conformance`: recorded vectors against the models; what differs first, the count last.
 */
import { type FileResult, runVectorFile, type VectorResult } from '../conformance/vfio/run.ts';
import { readVectorFile } from '../conformance/vfio/vector-file.ts';
import { colours } from '../report/colours.ts';
import { ExitCode } from '../report/summary.ts';

/** What can be compared, by the name the command has for it. */
const KINDS: ReadonlyMap<string, (path: string) => FileResult> = new Map([
  ['vfio', (path: string) => runVectorFile(readVectorFile(path))],
]);

export const CONFORMANCE_KINDS: readonly string[] = [...KINDS.keys()];

/** Differences of one vector that are printed; `--json` has all. */
const DIFFERENCES_SHOWN = 10;

/** Runs the files in order and prints the outcome; returns the exit code. @throws VectorFileError */
export function conformanceCommand(
  kind: string,
  paths: readonly string[],
  { json }: { readonly json?: boolean },
): ExitCode {
  const files = paths.map((path) => KINDS.get(kind)?.(path)).filter((file) => file !== undefined);
  const count = (verdict: VectorResult['verdict']) =>
    files.flatMap(({ vectors }) => vectors).filter((vector) => vector.verdict === verdict).length;
  const [passed, failed, skipped] = [count('passed'), count('failed'), count('skipped')];
  const text = json
    ? JSON.stringify({ passed, failed, skipped, files }, null, 2)
    : [...files.flatMap(fileLines), `${passed} passed, ${failed} failed, ${skipped} skipped`].join('\n');
  process.stdout.write(`${text}\n`);
  return failed === 0 ? ExitCode.ok : ExitCode.failed;
}

const fileLines = ({ path, vectors }: FileResult): string[] =>
  vectors.flatMap((vector) => VERDICT_LINES[vector.verdict](path, vector));

const VERDICT_LINES: Readonly<
  Record<VectorResult['verdict'], (path: string, vector: VectorResult) => string[]>
> = {
  passed: () => [],
  skipped: (path, { name, reason }) => [`- ${path}: ${name} skipped: ${reason}`],
  failed: (path, { name, differences }) => {
    const lines = differences
      .slice(0, DIFFERENCES_SHOWN)
      .map(
        ({ step, op, field, expected, got }) =>
          `${colours.red('✗')} ${path}: ${name} step ${step} ${op}: ${field} is ${valueText(got)}, recorded ${valueText(expected)}`,
      );
    const more = differences.length - lines.length;
    return more > 0 ? [...lines, `${colours.red('✗')} ${path}: ${name}: and ${more} more`] : lines;
  },
};

/** Characters of a value that are printed. */
const VALUE_LIMIT = 200;

function valueText(value: unknown): string {
  const text = JSON.stringify(value) ?? 'absent';
  return text.length > VALUE_LIMIT ? `${text.slice(0, VALUE_LIMIT)}…` : text;
}
