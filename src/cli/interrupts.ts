/**
 * The signals that interrupt a run. The first one ends it in order, a second one at once.
 */
import { nowUs } from '#host';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Signals within this time count as one. A terminal signals all processes of a run, and npx and the wrapper of an old
 * Node forward the signal that they get.
 */
const SAME_SIGNAL_MS = 200;

interface InterruptHandlers {
  /** Called for the first signal, with its name. */
  onFirst(signal: string): void;
  /** Called for each further signal. */
  onFurther(): void;
}

/** Calls the handlers for signals, and when a parent process with a channel to this one has ended. Returns the end. */
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
  return () => {
    for (const signal of SIGNALS) process.off(signal, handle);
    process.off('disconnect', onDisconnect);
  };
}
