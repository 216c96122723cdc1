/**
 * Loading a scenario file: `mdevsim` resolves to this installation, and loading has a time limit.
 */
import { existsSync, statSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { after } from '#host';
import { workerEntry } from '../coordinator/entries.ts';
import { checkScenario, ScenarioError, type ScenarioSettings } from './scenario.ts';

/** A file whose top level does not end by then never will. */
export const LOAD_TIMEOUT_MS = 10_000;

let hooked = false;

/** Makes `import 'mdevsim'` in any file mean this installation, wherever the file is. */
export function resolvePackageHere(): void {
  if (hooked) return;
  hooked = true;
  const here = new URL(`../index${import.meta.url.slice(-3)}`, import.meta.url).href;
  registerHooks({
    resolve: (specifier, context, next) => next(specifier === 'mdevsim' ? here : specifier, context),
  });
}

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
  const worker = new Worker(workerEntry('scenario'), { workerData: scenarioUrl(path) });
  try {
    const answer = await new Promise<LoadAnswer>((done) => {
      const cancel = after(timeoutMs, () => done({ error: `did not load within ${timeoutMs} ms` }));
      const end = (answer: LoadAnswer) => {
        cancel();
        done(answer);
      };
      worker.once('message', end);
      worker.once('error', (error: Error) => end({ error: error.message }));
      worker.once('exit', (code) => end({ error: `exited with code ${code} while loading` }));
    });
    if ('error' in answer) throw new ScenarioError(`scenario ${path}: ${answer.error}`);
    return answer.settings;
  } finally {
    await worker.terminate();
  }
}
