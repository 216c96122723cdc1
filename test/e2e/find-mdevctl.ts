/**
 * Finds the stock mdevctl and runs it on a tree of mdevsim. `MDEVCTL` replaces the program from the PATH.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { MDEV_GPU } from '../../src/coordinator/default-host.ts';

interface MdevctlResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs mdevctl with these arguments. */
export type Mdevctl = (...args: string[]) => Promise<MdevctlResult>;

const run = (
  file: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<MdevctlResult> =>
  new Promise((resolve) => {
    execFile(file, args, { env: { ...process.env, ...env } }, (error, stdout, stderr) => {
      const code = error ? (typeof error.code === 'number' ? error.code : 255) : 0;
      resolve({ code, stdout, stderr });
    });
  });

const PROGRAM = process.env.MDEVCTL ?? 'mdevctl';
const IGNORES_ROOT = 'it ignores MDEVCTL_ENV_ROOT, as versions before 1.3 do';

/**
 * Returns a function that runs mdevctl below `dir`, or the reason why it cannot run. `dir` has a tree with the default
 * host's first GPU.
 */
export async function findMdevctl(dir: string): Promise<Mdevctl | string> {
  const env = { MDEVCTL_ENV_ROOT: dir };
  const seen = await run(PROGRAM, ['types'], env);
  if (seen.stdout.includes(MDEV_GPU.name)) return (...args) => run(PROGRAM, args, env);
  const { code, stdout } = await run('sh', ['-c', 'command -v "$0"', PROGRAM]);
  if (code !== 0) return `${PROGRAM} is not in the PATH`;
  if (process.geteuid?.() !== 0) return `${IGNORES_ROOT}, and only root may chroot`;
  return inChroot(stdout.trim(), dir);
}

/** Runs an mdevctl that ignores MDEVCTL_ENV_ROOT with `dir` as its root directory. */
async function inChroot(program: string, dir: string): Promise<Mdevctl | string> {
  const { stdout } = await run('ldd', [program]);
  for (const path of [program, ...(stdout.match(/\/[^\s]+/g) ?? [])]) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    copyFileSync(path, join(dir, path));
  }
  const { code, stderr } = await run('chroot', [dir, program, 'types']);
  if (code !== 0) return `${IGNORES_ROOT}, and does not run in a chroot: ${stderr.split('\n', 1)[0]}`;
  return (...args) => run('chroot', [dir, program, ...args]);
}
