/**
 * Bound of the rings' waits for events: one timer of the thread wakes them all at an interval.
 *
 * A time limit for each wait would start a timer at each interrupt, and a platform's timers end only when they are due.
 * With thousands of waits in a second these timers took a sixth of a busy guest's time.
 */
import { every } from '#host';

/** Interval at which a wait ends without an event. */
export const PULSE_MS = 1000;

/** A wait that the pulse ends. */
interface Waiter {
  endWaits(): void;
}

const waiters = new Set<Waiter>();
let stop: (() => void) | undefined;

/** Ends the waits of `waiter` once in each interval, until {@link removeWaiter}. */
export function addWaiter(waiter: Waiter): void {
  waiters.add(waiter);
  stop ??= every(PULSE_MS, pulse);
}

export function removeWaiter(waiter: Waiter): void {
  waiters.delete(waiter);
}

function pulse(): void {
  for (const waiter of waiters) waiter.endWaits();
  if (waiters.size > 0) return;
  stop?.();
  stop = undefined;
}
