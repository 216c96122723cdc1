/**
 * The scenarios that the package includes. They are TypeScript in the repository and JavaScript in a build, because Node
 * strips no types of files below node_modules.
 */
import { readdirSync } from 'node:fs';
import { basename } from 'node:path';
import { nearest } from '../platform/nearest.ts';

const FOLDER = new URL('../../scenarios/', import.meta.url);
const extension = import.meta.url.slice(-3);

/** Returns the names of the built-in scenarios, sorted. */
export const builtInScenarios = (): string[] =>
  readdirSync(FOLDER)
    .filter((file) => file.endsWith(extension))
    .map((file) => file.slice(0, -extension.length))
    .sort();

/** Returns the URL of a built-in scenario; undefined for any other name. */
export const builtInUrl = (name: string): string | undefined =>
  builtInScenarios().includes(name) ? new URL(`${name}${extension}`, FOLDER).href : undefined;

/** Returns what to run in place of a scenario file that does not exist. */
export function insteadOf(path: string): string {
  const names = builtInScenarios();
  const name = basename(path).replace(/\.[cm]?[jt]s$/, '');
  const similar = names.includes(name) ? name : nearest(name, names);
  return `nearest built-in scenario: ${similar}; accepted: the path of a file, or one of ${names.join(', ')}`;
}
