/**
 * Loads scenario files within a time limit. Their imports of `mdevsim` resolve to this installation.
 */
import { existsSync, statSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { builtInUrl, insteadOf } from './built-in.ts';
import { isDataFile } from './data-path.ts';
import { askWorker, LOAD_TIMEOUT_MS } from './loader.ts';
import { resolvePackageHere } from './package-hook.ts';
import { checkScenario, ScenarioError, type ScenarioSettings } from './scenario.ts';

/** Imports and checks a scenario in this thread. @throws ScenarioError, or what the file throws */
export async function importScenario(url: string): Promise<ReturnType<typeof checkScenario>> {
  resolvePackageHere();
  return checkScenario(await import(url));
}

/** Returns the URL of a built-in scenario's name or of a scenario file. @throws ScenarioError if neither exists */
export function scenarioUrl(path: string): string {
  const builtIn = builtInUrl(path);
  if (builtIn !== undefined) return builtIn;
  const file = resolve(path);
  if (!existsSync(file)) throw new ScenarioError(`scenario ${path}: no such file; ${insteadOf(path)}`);
  if (!statSync(file).isFile()) throw new ScenarioError(`scenario ${path}: not a file`);
  return pathToFileURL(file).href;
}

/** Answer of the loading worker. */
export type LoadAnswer = LoadedScenario | { readonly error: string };

/** Settings of a scenario, and the names of its parameters; undefined if it takes any. */
export interface LoadedScenario {
  readonly settings: ScenarioSettings;
  readonly parameters: readonly string[] | undefined;
  /** True if the scenario has a function `director`. */
  readonly hasDirector?: boolean;
}

/** Reads a scenario's settings: a script's in another process. @throws ScenarioError */
export async function loadSettings(path: string, timeoutMs = LOAD_TIMEOUT_MS): Promise<LoadedScenario> {
  const url = scenarioUrl(path);
  if (isDataFile(url)) {
    const { readDataFile } = await import('./data-file.ts');
    return readDataFile(relative('', fileURLToPath(url)));
  }
  const answer = await askWorker<LoadAnswer>('scenario', url, timeoutMs);
  if ('error' in answer) throw new ScenarioError(`scenario ${path}: ${answer.error}`);
  return answer;
}
