/**
 * Digests of scenario files, by which parts of a run at different places recognize the same script.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { isDataFile } from './data-path.ts';
import { scenarioUrl } from './load.ts';

/** Count of hexadecimal digits: enough to tell versions of one file apart. */
const DIGITS = 16;

/** Returns the digest of a scenario's script, without what it imports; empty for a data file. */
export function scriptDigest(path: string): string {
  const url = scenarioUrl(path);
  if (isDataFile(url)) return '';
  return createHash('sha256')
    .update(readFileSync(fileURLToPath(url)))
    .digest('hex')
    .slice(0, DIGITS);
}
