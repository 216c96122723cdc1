/**
 * Prints the record of a run and writes its outputs.
 */
import { recordJson } from '../report/outputs/json.ts';
import type { RunRecord } from '../report/record.ts';
import { summaryText } from '../report/summary.ts';
import { type OutputRequest, takesStdout, writeOutputs } from './outputs.ts';

export interface PrintFlags {
  readonly json?: boolean;
  readonly out: readonly OutputRequest[];
}

/** Prints the summary, or the record with `--json`. With data on stdout, everything else is on stderr. */
export function printRecord(record: RunRecord, { json, out }: PrintFlags, blob?: Uint8Array): void {
  if (json) process.stdout.write(recordJson(record));
  else (takesStdout(out) ? process.stderr : process.stdout).write(summaryText(record));
  for (const failure of writeOutputs(out, record, blob)) process.stderr.write(`mdevsim: ${failure}\n`);
}
