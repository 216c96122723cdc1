/**
 * The trace files of a run.
 */
import { closeSync, lstatSync, openSync, rmSync, type Stats, statSync } from 'node:fs';
import { tracePath } from '../proto/trace.ts';
import { HOSTS_LIMIT, ScenarioError } from './scenario.ts';

/** Returns the trace file of each host process; empty texts without a trace. Devices such as /dev/null take all. */
export function traceFiles(trace: string, processes: number): string[] {
  const isOne = trace === '' || processes === 1 || statOf(trace)?.isCharacterDevice() === true;
  return Array.from({ length: processes }, (_, process) => (isOne ? trace : tracePath(trace, process)));
}

/**
 * Creates the files, empty. With several, removes those of an earlier run that `mdevsim trace` would take for files of
 * this one.
 * @throws ScenarioError, the error of `open`: an unwritable trace must fail the run before it starts
 */
export function createTraceFiles(trace: string, files: readonly string[]): void {
  if (trace === '') return;
  for (const file of new Set(files)) {
    const stat = statOf(file);
    if (stat && !stat.isFile() && !stat.isCharacterDevice())
      throw new ScenarioError(`trace ${file}: not a file; accepted: a path to write the trace to`);
    closeSync(openSync(file, 'w'));
  }
  if (files.includes(trace)) return;
  const stale = [trace, ...Array.from({ length: HOSTS_LIMIT }, (_, process) => tracePath(trace, process))];
  for (const file of stale)
    if (!files.includes(file) && lstatSync(file, { throwIfNoEntry: false })?.isFile()) rmSync(file);
}

const statOf = (file: string): Stats | undefined => statSync(file, { throwIfNoEntry: false });
