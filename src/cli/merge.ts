/**
 * `mdevsim merge`: merges the blobs of a run's shards, judges the thresholds and writes every output.
 */
import type { ExitCode } from '../report/summary.ts';
import { mergeBlobs } from '../scenario/merge.ts';
import { checkOutputs, OutputError, wantsBlob } from './outputs.ts';
import { programName } from './package-version.ts';
import { type PrintFlags, printRecord } from './print-record.ts';

/** Merges blobs; returns the exit code of the whole run. @throws BlobError, OutputError, the file system's errors */
export function mergeCommand(paths: readonly string[], flags: PrintFlags): ExitCode {
  checkOutputs(flags.out, flags.json === true);
  if (wantsBlob(flags.out)) throw new OutputError('--out blob of a merge; accepted: the other kinds');
  const record = mergeBlobs(paths, programName());
  printRecord(record, flags);
  return record.exitCode;
}
