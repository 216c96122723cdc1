/**
 * The end of a build: workers that are started by the hundred get their code in a few files. Finding and linking modules
 * one by one takes most of a thread's start.
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
  // Of our dependencies some are CommonJS, and ask for Node's modules in their way.
  banner: {
    js: "import { createRequire as bundleRequire } from 'node:module'; const require = bundleRequire(import.meta.url);",
  },
};

await build({
  ...common,
  entryPoints: ['dist/workers/device.js'],
  outfile: 'dist/workers/device-bundle.js',
});

rmSync('dist/bundle', { recursive: true, force: true }); // chunks of the last build have other names

// A script imports `mdevsim`, and has to find the classes that its worker has: the package's modules are split, not
// repeated. The folders are as deep as those of dist/src, because modules find others by their own place.
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
