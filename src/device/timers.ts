/**
 * A device's timers on an injected clock. Due timers run between its steps, in the order of their times.
 */
import type { DeviceTimers } from './model.ts';

/** Most timers that one device may have pending. */
export const TIMERS_LIMIT = 256;
/** The longest delay: one hour. */
export const TIMER_DELAY_LIMIT_US: number = 3600 * 1e6;

interface Timer {
  readonly dueUs: number;
  readonly action: () => void;
}

export class TimerQueue implements DeviceTimers {
  readonly #clock: () => number;
  /** By due time; timers with equal times in the order in which they were set. */
  readonly #timers: Timer[] = [];

  /** `clock` returns microseconds. */
  constructor(clock: () => number) {
    this.#clock = clock;
  }

  nowUs(): number {
    return this.#clock();
  }

  after(delayUs: number, action: () => void): () => void {
    if (!(delayUs >= 0 && delayUs <= TIMER_DELAY_LIMIT_US))
      throw new RangeError(`timer of ${delayUs} µs; accepted: 0 to ${TIMER_DELAY_LIMIT_US}`);
    if (this.#timers.length >= TIMERS_LIMIT)
      throw new RangeError(`more than ${TIMERS_LIMIT} timers are pending in one device`);
    const timer: Timer = { dueUs: this.#clock() + delayUs, action };
    const later = this.#timers.findIndex(({ dueUs }) => dueUs > timer.dueUs);
    this.#timers.splice(later < 0 ? this.#timers.length : later, 0, timer);
    return () => {
      const at = this.#timers.indexOf(timer);
      if (at >= 0) this.#timers.splice(at, 1);
    };
  }

  get pending(): number {
    return this.#timers.length;
  }

  /** Removes all timers. */
  clear(): void {
    this.#timers.length = 0;
  }

  /** Microseconds until the next timer is due; 0 if one is due, infinite if there is no timer. */
  get waitUs(): number {
    const [next] = this.#timers;
    return next ? Math.max(0, next.dueUs - this.#clock()) : Number.POSITIVE_INFINITY;
  }

  /** Runs the timers that are due now, except those that they set. Returns the count of timers run. */
  runDue(): number {
    if (this.#timers.length === 0) return 0;
    const now = this.#clock();
    const due = this.#timers.filter(({ dueUs }) => dueUs <= now);
    let ran = 0;
    for (const timer of due) {
      const at = this.#timers.indexOf(timer);
      if (at < 0) continue; // cancelled by an earlier action
      this.#timers.splice(at, 1);
      timer.action();
      ran++;
    }
    return ran;
  }
}
