/**
 * Loads scenario files within a time limit. Their imports of `mdevsim` resolve to this installation.
 */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type ResourceLimits, Worker } from 'node:worker_threads';
import { after } from '#host';
import { type EntryName, workerEntry } from '../coordinator/workers/entries.ts';
import { builtInUrl, insteadOf } from './built-in.ts';
import { resolvePackageHere } from './package-hook.ts';
import { checkScenario, ScenarioError, type ScenarioSettings } from './scenario.ts';

/** How long a file's top level may run; after that it counts as endless. */
export const LOAD_TIMEOUT_MS = 10_000;

/** Node's exit code for a module whose top-level `await` can never complete. */
const EXIT_UNSETTLED = 13;

/** Imports and checks a scenario in this thread. @throws ScenarioError, or what the file throws */
export async function importScenario(url: string): Promise<ReturnType<typeof checkScenario>> {
  resolvePackageHere();
  return checkScenario(await import(url));
}

/** Returns the URL of a built-in scenario's name or of a scenario file. @throws ScenarioError if there is none */
export function scenarioUrl(path: string): string {
  const builtIn = builtInUrl(path);
  if (builtIn !== undefined) return builtIn;
  const file = resolve(path);
  if (!existsSync(file)) throw new ScenarioError(`scenario ${path}: no such file; ${insteadOf(path)}`);
  if (!statSync(file).isFile()) throw new ScenarioError(`scenario ${path}: not a file`);
  return pathToFileURL(file).href;
}

/** Answer of the loading worker. */
export type LoadAnswer = { readonly settings: ScenarioSettings } | { readonly error: string };

/**
 * Reads a scenario's settings in a worker, so that a file that throws or never ends cannot block this thread.
 * @throws ScenarioError
 */
export async function loadSettings(path: string, timeoutMs = LOAD_TIMEOUT_MS): Promise<ScenarioSettings> {
  const answer = await askWorker<LoadAnswer>('scenario', scenarioUrl(path), timeoutMs);
  if ('error' in answer) throw new ScenarioError(`scenario ${path}: ${answer.error}`);
  return answer.settings;
}

/**
 * Starts a worker with `data` and resolves to its one message, or to an error if it ends without one or times out.
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
              ? 'its top-level await never completes'
              : `exited with code ${code} while loading`,
        }),
      );
    });
  } finally {
    await worker.terminate();
  }
}
