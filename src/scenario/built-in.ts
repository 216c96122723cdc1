/**
 * The scenarios that the package includes. Scripts are TypeScript in the repository and JavaScript in a build, because
 * Node strips no types of files below node_modules. Data files stay where they are.
 */
import { readdirSync } from 'node:fs';
import { basename } from 'node:path';
import { nearest } from '../platform/nearest.ts';

const FOLDER = new URL('../../scenarios/', import.meta.url);
const extension = import.meta.url.slice(-3);
const DATA_EXTENSION = '.yaml';
/** In a build, the folder above `dist`. */
const DATA_FOLDER = extension === '.ts' ? FOLDER : new URL('../../scenarios/', FOLDER);

const namesIn = (folder: URL, ending: string): string[] =>
  readdirSync(folder)
    .filter((file) => file.endsWith(ending))
    .map((file) => file.slice(0, -ending.length));

/** Returns the names of the built-in scenarios, sorted. */
export const builtInScenarios = (): string[] =>
  [...namesIn(FOLDER, extension), ...namesIn(DATA_FOLDER, DATA_EXTENSION)].sort();

/** Returns the URL of a built-in scenario; undefined for any other name. */
export function builtInUrl(name: string): string | undefined {
  if (namesIn(FOLDER, extension).includes(name)) return new URL(`${name}${extension}`, FOLDER).href;
  return namesIn(DATA_FOLDER, DATA_EXTENSION).includes(name)
    ? new URL(`${name}${DATA_EXTENSION}`, DATA_FOLDER).href
    : undefined;
}

/** Returns what to run in place of a scenario file that does not exist. */
export function insteadOf(path: string): string {
  const names = builtInScenarios();
  const name = basename(path).replace(/\.([cm]?[jt]s|ya?ml|json)$/, '');
  const similar = names.includes(name) ? name : nearest(name, names);
  return `nearest built-in scenario: ${similar}; accepted: the path of a file, or one of ${names.join(', ')}`;
}
