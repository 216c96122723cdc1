/**
 * Runs of the command for the bench of declared load: `mdevsim run FILE --json` in a process of its own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const COMMAND = join(import.meta.dirname, '..', 'src', 'cli', 'bin.js');

/** The part of a run's JSON that the bench reads. */
export interface LoadResult {
  readonly verdict: string;
  readonly load: {
    readonly metrics: readonly {
      readonly name: string;
      readonly tags: Readonly<Record<string, string>>;
      readonly values: Readonly<Record<string, number>>;
      readonly series: { readonly seconds: number; readonly count: readonly (number | null)[] };
    }[];
  };
}

/** A running command. */
interface RunningLoad {
  readonly process: ChildProcess;
  /** Rejects if the run does not pass. */
  readonly result: Promise<LoadResult>;
}

/** Starts a scenario, the text of a file with this name. */
export function startLoad(name: string, scenario: string): RunningLoad {
  const folder = mkdtempSync(join(tmpdir(), 'mdevsim-bench-'));
  const file = join(folder, name);
  writeFileSync(file, scenario);
  const process_ = spawn(process.execPath, [COMMAND, 'run', file, '--json'], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const texts = { out: '', errors: '' };
  process_.stdout.on('data', (bytes: Buffer) => {
    texts.out += bytes.toString();
  });
  process_.stderr.on('data', (bytes: Buffer) => {
    texts.errors = (texts.errors + bytes.toString()).slice(-2000);
  });
  const result = new Promise<LoadResult>((resolve, reject) => {
    process_.on('error', reject);
    process_.on('close', (code) => {
      rmSync(folder, { recursive: true, force: true });
      if (code === 0) resolve(JSON.parse(texts.out) as LoadResult);
      else reject(new Error(`mdevsim run ended with ${code}: ${texts.errors}`));
    });
  });
  return { process: process_, result };
}

/** Returns the VMs and the vGPUs of each for this count of vGPUs. */
export const shapeOf = (vgpus: number) => {
  const each = Math.min(vgpus, 16);
  return { vms: vgpus / each, vgpus: each };
};
