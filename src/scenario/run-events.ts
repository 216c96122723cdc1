/**
 * Events of a run, in order of time and bounded.
 */
import { nowUs } from '#host';
import type { RunEvent } from '../report/record.ts';

/** Maximum count of events kept; further ones are only counted. */
export const EVENTS_LIMIT = 8192;

const US_PER_SECOND = 1e6;
const DIGITS = 6;

interface TimedEvent extends Omit<RunEvent, 'seconds'> {
  readonly us: number;
}

export class RunEvents {
  readonly #all: TimedEvent[] = [];
  /** Count of events beyond the limit. */
  cut = 0;

  /** Adds an event that happens now. @param vm null for the whole run */
  add(kind: string, vm: number | null, text = ''): void {
    if (this.#all.length >= EVENTS_LIMIT) this.cut++;
    else this.#all.push({ us: nowUs(), kind, vm, text });
  }

  /** Returns the events. @param startUs start of the run's clock @param last count of the newest; by default all */
  list(startUs: number, last = Number.POSITIVE_INFINITY): readonly RunEvent[] {
    return this.#all.slice(-last).map(({ us, kind, vm, text }) => ({
      seconds: Number(((us - startUs) / US_PER_SECOND).toFixed(DIGITS)),
      kind,
      vm,
      text,
    }));
  }
}
