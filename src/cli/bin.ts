#!/usr/bin/env node
/**
 * The `mdevsim` command. If Node is too old, it restarts itself with an npm package `node`.
 */
import { spawnSync } from 'node:child_process';
import { pinnedNode, runsHere, tooOldText } from './pinned-node.ts';

if (runsHere()) {
  const { main } = await import('./main.ts');
  await main(process.argv);
} else {
  process.exitCode = onPinnedNode();
}

function onPinnedNode(): number {
  const pinned = pinnedNode();
  if (pinned === undefined) {
    process.stderr.write(tooOldText());
    return 104;
  }
  const { status, signal } = spawnSync(pinned, process.argv.slice(1), { stdio: 'inherit' });
  return signal ? 105 : (status ?? 1);
}
