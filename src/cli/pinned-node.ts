/**
 * The Node that the command runs on where the installed one is too old: an npm package `node`, beside mdevsim or in the
 * project from which it is called. This file runs on old versions of Node.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

/** The oldest major version that runs mdevsim. */
const OLDEST_NODE = 24;
/** The version that the message recommends. */
const RECOMMENDED_NODE = 26;

const isNewEnough = (version: string): boolean => Number(version.split('.')[0]) >= OLDEST_NODE;

/** Returns whether this process can run mdevsim. */
export const runsHere = (): boolean => isNewEnough(process.versions.node);

/** Returns the path of a Node that is new enough; undefined if there is no such Node. */
export function pinnedNode(): string | undefined {
  for (const from of [import.meta.url, join(process.cwd(), 'package.json')])
    try {
      const manifest = createRequire(from).resolve('node/package.json');
      const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version?: unknown };
      const binary = join(dirname(manifest), 'bin/node');
      if (isNewEnough(String(version)) && existsSync(binary)) return binary;
    } catch {
      // No such package there.
    }
  return undefined;
}

/** Returns the message for a Node that is too old. */
export const tooOldText = (): string =>
  `mdevsim needs Node ${OLDEST_NODE} or newer; this is ${process.versions.node}. One command adds it to this project: npm install node@${RECOMMENDED_NODE}\n`;
