#!/usr/bin/env node
/**
 * The `mdevsim` command. If Node is too old, it restarts itself with the Node that the package includes.
 */
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';

const OLDEST_NODE = 24;

// A reader that has gone, or a full disk, changes neither the run nor its exit code.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});

const major = Number(process.versions.node.split('.')[0]);
if (major >= OLDEST_NODE) {
  const { main } = await import('./main.ts');
  await main(process.argv);
} else restart();

/** Runs the command with the pinned Node, forwards signals to it, and ends as it ends. */
function restart(): void {
  let pinned: string;
  try {
    pinned = createRequire(import.meta.url).resolve('node/bin/node');
  } catch {
    process.stderr.write(`mdevsim needs Node ${OLDEST_NODE} or newer; this is ${process.versions.node}\n`);
    process.exitCode = 104;
    return;
  }
  // By the channel the command notices if this process is killed.
  const child = spawn(pinned, process.argv.slice(1), { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] });
  const forward = (signal: NodeJS.Signals) => child.kill(signal);
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, forward);
  child.on('error', (error) => {
    process.stderr.write(`mdevsim: ${pinned}: ${error.message}\n`);
    process.exitCode = 104;
  });
  child.on('exit', (code, signal) => {
    for (const each of signals) process.off(each, forward);
    if (signal) process.kill(process.pid, signal);
    else process.exitCode = code ?? 1;
  });
}
