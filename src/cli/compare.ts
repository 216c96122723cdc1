/**
 * `mdevsim compare`: compares the JSON records of two runs.
 */
import { InvalidArgumentError } from 'commander';
import { ThresholdError } from '../metrics/selector.ts';
import { compareRuns } from '../report/compare/compare.ts';
import { FAIL_ON_ACCEPTED, type FailOn, judgeFailOn, parseFailOn } from '../report/compare/fail-on.ts';
import { readStoredRun } from '../report/compare/stored-run.ts';
import { comparisonText } from '../report/compare/text.ts';
import { ExitCode } from '../report/summary.ts';

interface CompareFlags {
  readonly failOn: readonly FailOn[];
  readonly json?: boolean;
}

/** Parses a condition and adds it to the previous ones. @throws InvalidArgumentError */
export function failOnOption(text: string, before: readonly FailOn[]): FailOn[] {
  try {
    const condition = parseFailOn(text);
    if (condition) return [...before, condition];
  } catch (error) {
    if (error instanceof ThresholdError) throw new InvalidArgumentError(error.message);
    throw error;
  }
  throw new InvalidArgumentError(FAIL_ON_ACCEPTED);
}

/** Compares two runs; returns the exit code. @throws StoredRunError, the file system's errors */
export function compareCommand(pathA: string, pathB: string, { failOn, json }: CompareFlags): ExitCode {
  const [a, b] = [readStoredRun(pathA), readStoredRun(pathB)];
  const results = failOn.map((condition) => judgeFailOn(condition, a, b));
  const comparison = compareRuns(a, b);
  const failed = results.some((result) => result.failed);
  process.stdout.write(
    json
      ? `${JSON.stringify({ a: pathA, b: pathB, failed, failOn: results, ...comparison }, null, 2)}\n`
      : comparisonText([a, b], comparison, results),
  );
  return failed ? ExitCode.thresholds : ExitCode.ok;
}
