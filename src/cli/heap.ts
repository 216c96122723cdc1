/**
 * The command's heap over a long run. V8 lets garbage gather: its nursery grows to 48 MiB, and the buffers of messages from
 * host processes wait for a collection of the whole heap, which comes after another 32 MiB of them. What the command holds
 * does not grow with a run, so that neither should its memory: the nursery stays small, and the heap is collected
 * regularly. A collection takes about 20 ms, in a process that no guest or device waits for.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { every } from '#host';

const COLLECT_INTERVAL_MS = 15_000;

/** Bounds the garbage of this process; returns the function that ends it. */
export function boundHeap(): () => void {
  setFlagsFromString('--semi-space-growth-factor=1');
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  return every(COLLECT_INTERVAL_MS, collect);
}
