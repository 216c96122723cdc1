/**
 * The signals that interrupt a run. The first one ends it in order, a second one at once.
 */
import { readFileSync } from 'node:fs';
import { every, nowUs } from '#host';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Signals within this time count as one. A terminal signals all processes of a run, and npx and the wrapper of an old
 * Node forward the signal that they get.
 */
const SAME_SIGNAL_MS = 200;

/**
 * Interval of checks whether npm or its shell has ended. npm forwards some signals to its shell alone, which ends by them
 * and leaves the command behind; of others it ends itself.
 */
const PARENT_CHECK_MS = 250;

interface InterruptHandlers {
  /** Called for the first signal, with its name. */
  onFirst(signal: string): void;
  /** Called for each further signal. */
  onFurther(): void;
}

/**
 * Calls the handlers for signals, and when a parent process has ended that runs this one: npm, or one with a channel.
 * Returns a function that ends this.
 */
export function onInterrupt({ onFirst, onFurther }: InterruptHandlers): () => void {
  let last: number | undefined;
  const handle = (signal: string) => {
    const now = nowUs();
    const isFirst = last === undefined;
    const isSame = last !== undefined && now - last < SAME_SIGNAL_MS * 1000;
    if (!isSame) last = now;
    if (isFirst) onFirst(signal);
    else if (!isSame) onFurther();
  };
  const onDisconnect = () => handle('the end of its parent process');
  for (const signal of SIGNALS) process.on(signal, handle);
  process.on('disconnect', onDisconnect);
  const parents = parentsNow();
  const underNpm = process.env.npm_lifecycle_event !== undefined;
  const stopChecks = every(PARENT_CHECK_MS, () => {
    if (!underNpm || parentsNow() === parents) return;
    stopChecks();
    onDisconnect();
  });
  return () => {
    stopChecks();
    for (const signal of SIGNALS) process.off(signal, handle);
    process.off('disconnect', onDisconnect);
  };
}

/** Returns the parent process and its parent, which has the first place after the state in /proc/PID/stat. */
function parentsNow(): string {
  const parent = process.ppid;
  try {
    const stat = readFileSync(`/proc/${parent}/stat`, 'utf8');
    return `${parent} ${stat.slice(stat.lastIndexOf(')')).split(' ')[2]}`;
  } catch {
    return String(parent); // it has just ended, or this is not Linux
  }
}
