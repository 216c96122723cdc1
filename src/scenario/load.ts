/**
 * Loading a scenario file: `mdevsim` resolves to this installation, and loading has a time limit.
 */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type ResourceLimits, Worker } from 'node:worker_threads';
import { after } from '#host';
import { type EntryName, workerEntry } from '../coordinator/workers/entries.ts';
import { resolvePackageHere } from './package-hook.ts';
import { checkScenario, ScenarioError, type ScenarioSettings } from './scenario.ts';

/** A file whose top level does not end by then never will. */
export const LOAD_TIMEOUT_MS = 10_000;

/** Node's exit code for a module whose top-level `await` can never end. */
const EXIT_UNSETTLED = 13;

/** Imports and checks a scenario in this thread. @throws ScenarioError, or what the file throws */
export async function importScenario(url: string): Promise<ReturnType<typeof checkScenario>> {
  resolvePackageHere();
  return checkScenario(await import(url));
}

/** URL of a scenario file. @throws ScenarioError if it is not there */
export function scenarioUrl(path: string): string {
  const file = resolve(path);
  if (!existsSync(file)) throw new ScenarioError(`scenario ${path}: no such file`);
  if (!statSync(file).isFile()) throw new ScenarioError(`scenario ${path}: not a file`);
  return pathToFileURL(file).href;
}

/** What the loading worker answers. */
export type LoadAnswer = { readonly settings: ScenarioSettings } | { readonly error: string };

/**
 * Reads a scenario's settings in a worker, so that a file that throws or never ends hurts nobody.
 * @throws ScenarioError
 */
export async function loadSettings(path: string, timeoutMs = LOAD_TIMEOUT_MS): Promise<ScenarioSettings> {
  const answer = await askWorker<LoadAnswer>('scenario', scenarioUrl(path), timeoutMs);
  if ('error' in answer) throw new ScenarioError(`scenario ${path}: ${answer.error}`);
  return answer.settings;
}

/**
 * Starts a worker with `data` and resolves to the one message it sends; to an error if it ends without, or takes too
 * long.
 */
export async function askWorker<Answer>(
  entry: EntryName,
  data: string,
  timeoutMs: number,
  resourceLimits: ResourceLimits = {},
): Promise<Answer | { readonly error: string }> {
  const worker = new Worker(workerEntry(entry), {
    workerData: data,
    resourceLimits,
    execArgv: [...process.execArgv, '--no-warnings'],
  });
  try {
    return await new Promise<Answer | { readonly error: string }>((done) => {
      const cancel = after(timeoutMs, () => done({ error: `did not load within ${timeoutMs} ms` }));
      const end = (answer: Answer | { readonly error: string }) => {
        cancel();
        done(answer);
      };
      worker.once('message', end);
      worker.once('error', (error: Error) => end({ error: error.message }));
      worker.once('exit', (code) =>
        end({
          error:
            code === EXIT_UNSETTLED
              ? 'awaits for ever at its top level'
              : `exited with code ${code} while loading`,
        }),
      );
    });
  } finally {
    await worker.terminate();
  }
}
