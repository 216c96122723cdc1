#!/usr/bin/env node
/**
 * The `mdevsim` command. If Node is too old, it restarts itself with the Node that the package includes.
 */
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';

const OLDEST_NODE = 24;

const major = Number(process.versions.node.split('.')[0]);
if (major >= OLDEST_NODE) {
  const { main } = await import('./main.ts');
  await main(process.argv);
} else {
  process.exitCode = onPinnedNode();
}

function onPinnedNode(): number {
  let pinned: string;
  try {
    pinned = createRequire(import.meta.url).resolve('node/bin/node');
  } catch {
    process.stderr.write(`mdevsim needs Node ${OLDEST_NODE} or newer; this is ${process.versions.node}\n`);
    return 104;
  }
  const { status, signal } = spawnSync(pinned, process.argv.slice(1), { stdio: 'inherit' });
  return signal ? 105 : (status ?? 1);
}
