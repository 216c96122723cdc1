/**
 * The script and the style sheet of the report. A build makes each of them one file. From the sources, the bundler of the
 * build is asked for the same.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

/** Files of the browser's side, without their license comments. */
export interface ClientCode {
  readonly script: string;
  readonly style: string;
}

const FILES = { script: 'main.js', style: 'style.css' } as const;

let loaded: ClientCode | undefined;

/** Returns the code, which is read once. */
export function clientCode(): ClientCode {
  loaded ??= import.meta.url.endsWith('.ts')
    ? bundledNow()
    : { script: built('script'), style: built('style') };
  return loaded;
}

const built = (part: keyof typeof FILES): string =>
  readFileSync(new URL(`../../../bundle/report/${FILES[part]}`, import.meta.url), 'utf8');

/** Returns the code as `esbuild.config.js` would write it. */
function bundledNow(): ClientCode {
  const esbuild = createRequire(import.meta.url)('esbuild') as typeof import('esbuild');
  const { outputFiles = [] } = esbuild.buildSync({
    bundle: true,
    minify: true,
    format: 'iife',
    target: 'es2022',
    legalComments: 'none',
    write: false,
    outdir: '/',
    entryPoints: ['main.ts', 'style.css'].map((name) =>
      fileURLToPath(new URL(`client/${name}`, import.meta.url)),
    ),
  });
  const textOf = (part: keyof typeof FILES) =>
    outputFiles.find(({ path }) => path.endsWith(FILES[part]))?.text ?? '';
  return { script: textOf('script'), style: textOf('style') };
}
