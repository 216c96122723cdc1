/**
 * Runs the built `mdevsim` command and returns its exit code and output.
 */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { RunSummary } from '../../src/report/summary.ts';

export const COMMAND = fileURLToPath(new URL('../../dist/src/cli/bin.js', import.meta.url));
export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command. Any exit code resolves the promise. The test sets the time limit. */
export function mdevsim(...args: string[]): Promise<CommandResult> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [COMMAND, ...args],
      { cwd: ROOT, env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' }, maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => {
        const code = error ? (typeof error.code === 'number' ? error.code : 255) : 0;
        resolve({ code, stdout, stderr });
      },
    );
  });
}

export const fixture = (name: string): string => `test/fixtures/scenarios/${name}.ts`;

/** Runs a scenario with `--json`. @throws Error with the command's message if the run does not start */
export async function runScenario(
  file: string,
  ...args: string[]
): Promise<{ readonly code: number; readonly summary: RunSummary }> {
  const { code, stdout, stderr } = await mdevsim('run', file, '--json', ...args);
  if (stdout === '') throw new Error(stderr);
  return { code, summary: JSON.parse(stdout) as RunSummary };
}
