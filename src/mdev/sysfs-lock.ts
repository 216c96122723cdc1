/**
 * Lock of a tree's folder: two runs in one folder would execute each other's files as writes.
 *
 * The lock is a file with the process's number and start time. It is free if that process has ended, however it ended.
 */
import { readFileSync } from 'node:fs';
import type { TreeFiles } from './sysfs-files.ts';

const LOCK = '/.mdevsim-sysfs-lock';
const LOCK_BYTES = 100;

/** Takes the lock. @returns the number of the process that has it, or undefined if it is now this process's */
export function lockedBy(files: TreeFiles): number | undefined {
  const own = `${process.pid} ${startOf(process.pid)}\n`;
  // The holder may end, and another run may be faster, between any two of these steps.
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (files.claim(LOCK, own)) return undefined;
    const [pid = 0, start] = (files.read(LOCK, LOCK_BYTES) ?? '').trim().split(' ').map(Number);
    if (pid > 0 && startOf(pid) === start) return pid;
    files.remove(LOCK);
  }
  return 0;
}

export const unlock = (files: TreeFiles): void => files.remove(LOCK);

const ATTEMPTS = 3;

/** Returns when a process started, in clock ticks since the boot; -1 if there is no such process, 0 if the time is not known. */
function startOf(pid: number): number {
  try {
    // The second field is a name in parentheses, which may hold any character; the start is field 22.
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return Number(fields.slice(fields.lastIndexOf(')') + 2).split(' ')[19]);
  } catch {
    return isAlive(pid) ? 0 : -1;
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
