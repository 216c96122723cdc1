/**
 * A device's timers: due ones run between its steps, in the order of their times, on whatever clock it was given.
 */
import type { DeviceTimers } from './model.ts';

/** Timers that one device may have pending. */
export const TIMERS_LIMIT = 256;
/** The longest delay: an hour. */
export const TIMER_DELAY_LIMIT_US: number = 3600 * 1e6;

interface Timer {
  readonly dueUs: number;
  readonly action: () => void;
}

export class TimerQueue implements DeviceTimers {
  readonly #clock: () => number;
  /** By due time; equal ones in the order they were set. */
  readonly #timers: Timer[] = [];

  /** `clock` answers in microseconds. */
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

  /** Forgets them all. */
  clear(): void {
    this.#timers.length = 0;
  }

  /** Microseconds until the next timer is due; 0 if one is, Infinity if there is none. */
  get waitUs(): number {
    const [next] = this.#timers;
    return next ? Math.max(0, next.dueUs - this.#clock()) : Number.POSITIVE_INFINITY;
  }

  /** Runs the timers that are due now; not those that they set. Returns their number. */
  runDue(): number {
    if (this.#timers.length === 0) return 0;
    const now = this.#clock();
    const due = this.#timers.filter(({ dueUs }) => dueUs <= now);
    let ran = 0;
    for (const timer of due) {
      const at = this.#timers.indexOf(timer);
      if (at < 0) continue; // cancelled by one before it
      this.#timers.splice(at, 1);
      timer.action();
      ran++;
    }
    return ran;
  }
}
