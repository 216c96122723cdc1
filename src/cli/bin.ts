#!/usr/bin/env node
/**
 * The `mdevsim` command. If Node is too old, it restarts itself with an npm package `node`.
 */
import { spawn } from 'node:child_process';
import { pinnedNode, runsHere, tooOldText } from './pinned-node.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

// A reader that has gone, or a full disk, changes neither the run nor its exit code.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});

if (runsHere()) {
  const { main } = await import('./main.ts');
  await main(process.argv);
} else {
  const pinned = pinnedNode();
  if (pinned === undefined) {
    process.stderr.write(tooOldText());
    process.exitCode = 104;
  } else restart(pinned);
}

/** Runs the command with another Node, forwards signals to it, and ends as it ends. */
function restart(node: string): void {
  // By the channel the command notices if this process is killed.
  const child = spawn(node, process.argv.slice(1), { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] });
  const forward = (signal: NodeJS.Signals) => child.kill(signal);
  for (const signal of SIGNALS) process.on(signal, forward);
  child.on('error', (error) => {
    process.stderr.write(`mdevsim: ${node}: ${error.message}\n`);
    process.exitCode = 104;
  });
  child.on('exit', (code, signal) => {
    for (const each of SIGNALS) process.off(each, forward);
    if (signal) process.kill(process.pid, signal);
    else process.exitCode = code ?? 1;
  });
}
