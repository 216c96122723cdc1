/**
 * The version of this package.
 */
import { existsSync, readFileSync } from 'node:fs';

/** Returns the version in package.json, which is one folder further up from a build. */
export function packageVersion(): string {
  const file = ['../../package.json', '../../../package.json']
    .map((path) => new URL(path, import.meta.url))
    .find((url) => existsSync(url));
  return file ? (JSON.parse(readFileSync(file, 'utf8')) as { readonly version: string }).version : 'unknown';
}

/** Returns the name of this program with its version. */
export const programName = (): string => `mdevsim ${packageVersion()}`;
