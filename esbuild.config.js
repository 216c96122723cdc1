/**
 * Bundles the workers after a build. A run starts hundreds of them, and loading and linking single modules takes most of
 * a thread's start.
 */
import { rmSync } from 'node:fs';
import { build } from 'esbuild';

/** @type {import('esbuild').BuildOptions} */
const common = {
  bundle: true,
  platform: 'node',
  format: 'esm',
  external: ['mdevsim'],
  logLevel: 'warning',
  // Some dependencies are CommonJS and call `require` for Node's modules.
  banner: {
    js: "import { createRequire as bundleRequire } from 'node:module'; const require = bundleRequire(import.meta.url);",
  },
};

await build({
  ...common,
  entryPoints: ['dist/workers/device.js'],
  outfile: 'dist/workers/device-bundle.js',
});

rmSync('dist/bundle', { recursive: true, force: true }); // removes chunks of earlier builds, which have other names

// A script imports `mdevsim` and must get the same classes as its worker, so shared modules are split into chunks, not
// duplicated. The folders are as deep as those of dist/src, because modules resolve URLs relative to their own.
await build({
  ...common,
  splitting: true,
  outdir: 'dist/bundle',
  chunkNames: 'guest/[name]-[hash]',
  entryPoints: {
    index: 'dist/src/index.js',
    'device/sdk/index': 'dist/src/device/sdk/index.js',
    'guest/guest': 'dist/workers/guest.js',
  },
});

// The browser's side of the report and the dashboard, with uPlot (MIT, Copyright (c) Leon Sorokin).
await build({
  bundle: true,
  minify: true,
  format: 'iife',
  target: 'es2022',
  legalComments: 'none',
  logLevel: 'warning',
  outdir: 'dist/bundle/report',
  entryPoints: ['src/report/html/client/main.ts', 'src/report/html/client/style.css'],
});
