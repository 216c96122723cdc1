/**
 * Prints the record of a run and writes its outputs.
 */
import { resolve } from 'node:path';
import { recordJson } from '../report/outputs/json.ts';
import type { RunRecord } from '../report/record.ts';
import { summaryText } from '../report/summary.ts';
import { oneLine } from '../report/text.ts';
import { type OutputRequest, takesStdout, writeOutputs } from './outputs.ts';

export interface PrintFlags {
  readonly json?: boolean;
  readonly out: readonly OutputRequest[];
}

/**
 * Prints the summary, or the record with `--json`, and writes the outputs. With data on stdout, everything else is on
 * stderr. The last lines name the HTML reports.
 */
export function printRecord(
  record: RunRecord,
  { json, out }: PrintFlags,
  blob?: () => Uint8Array | undefined,
): void {
  const text = json || takesStdout(out) ? process.stderr : process.stdout;
  if (json) process.stdout.write(recordJson(record));
  else text.write(summaryText(record));
  const { written, failures } = writeOutputs(out, record, blob);
  for (const failure of failures) process.stderr.write(`mdevsim: ${failure}\n`);
  for (const { kind, path } of written)
    if (kind === 'html') text.write(`  report         ${oneLine(resolve(path))}\n`);
}
