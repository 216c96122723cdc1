/**
 * The outputs of a run by kind. Each one is a function of the run's record.
 */

import { recordHtml } from '../html/page.ts';
import type { RunRecord } from '../record.ts';
import { recordCsv } from './csv.ts';
import { recordJson } from './json.ts';
import { recordJunit } from './junit.ts';
import { recordPerfetto } from './perfetto.ts';
import { recordPrometheus } from './prometheus.ts';

/** Content of a file by kind of output. */
export const OUTPUTS: Readonly<Record<string, (record: RunRecord) => string>> = {
  html: recordHtml,
  json: recordJson,
  csv: recordCsv,
  junit: recordJunit,
  prometheus: recordPrometheus,
  perfetto: recordPerfetto,
};
