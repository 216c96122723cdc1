/**
 * The recordings that the package includes, for commands without files.
 */
import { readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The package's root: this file is in src/cli, or in dist/src/cli. */
const ROOT = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../../' : '../../../', import.meta.url),
);

/** Returns `files`, or all files in the package's folder test/data/`folder` if there are none. */
export function filesOrShipped(files: readonly string[], folder: string): readonly string[] {
  if (files.length > 0) return files;
  const shipped = join(ROOT, 'test/data', folder);
  return readdirSync(shipped)
    .sort()
    .map((name) => relative('', join(shipped, name)));
}
