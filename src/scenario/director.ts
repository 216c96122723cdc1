/**
 * Carries out the events of a scenario at their times of the run's clock, and records how each has ended.
 */
import { after, nowUs } from '#host';
import type { MoveEvent } from '../load/events.ts';
import type { EventResult } from '../report/load-report.ts';

const US_PER_SECOND = 1e6;

interface DirectorActions {
  /** Asks the host process of a VM to move it; the answer goes to {@link Director.moved}. */
  move(vm: number, to: number | undefined, event: number): void;
  /** Records the begin of an event, and its end. */
  record(kind: string, vm: number, text: string): void;
}

/** An event, and how it has ended so far. */
interface DirectedEvent extends MoveEvent {
  hasBegun: boolean;
  endSeconds: number | null;
  error: string;
}

export class Director {
  readonly #events: readonly DirectedEvent[];
  readonly #actions: DirectorActions;
  readonly #cancels: (() => void)[] = [];
  #startUs = 0;

  constructor(events: readonly MoveEvent[], actions: DirectorActions) {
    this.#events = events.map((event) => ({ ...event, hasBegun: false, endSeconds: null, error: '' }));
    this.#actions = actions;
  }

  /** Starts the run's clock. @param startUs on the scale of `nowUs()` */
  start(startUs: number): void {
    this.#startUs = startUs;
    for (const [number, event] of this.#events.entries())
      this.#cancels.push(
        after(Math.max(0, startUs + event.atUs - nowUs()) / 1000, () => this.#begin(event, number)),
      );
  }

  #begin(event: DirectedEvent, number: number): void {
    event.hasBegun = true;
    this.#actions.record('migrate', event.vm, actionOf(event));
    this.#actions.move(event.vm, event.to, number);
  }

  /** A move has ended. @param error why the VM stays; empty if it has moved */
  moved(number: number, error: string): void {
    const event = this.#events[number];
    if (!event) return;
    event.endSeconds = (nowUs() - this.#startUs) / US_PER_SECOND;
    event.error = error;
    this.#actions.record(error === '' ? 'migrated' : 'stays', event.vm, error);
  }

  /** No more events begin. */
  stop(): void {
    for (const cancel of this.#cancels) cancel();
  }

  /** Ends the clock; returns how the events have ended. @param isPlanned false for a run that has ended before its stages */
  end(isPlanned: boolean): readonly EventResult[] {
    this.stop();
    return this.#events.map((event) => {
      const { atUs, hasBegun, endSeconds, error } = event;
      const unfinished = hasBegun ? 'the run has ended meanwhile' : 'the run has ended before';
      return {
        seconds: atUs / US_PER_SECOND,
        endSeconds,
        action: actionOf(event),
        error: error === '' && endSeconds === null && isPlanned ? unfinished : error,
      };
    });
  }
}

const actionOf = ({ name, to }: MoveEvent): string => `migrate ${name}${to === undefined ? '' : ` to ${to}`}`;
