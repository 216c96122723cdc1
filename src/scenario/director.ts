/**
 * Carries out the events of a scenario at their times of the run's clock, and records how each has ended.
 */
import { after, nowUs } from '#host';
import type { VmEvent } from '../load/events.ts';
import type { EventResult } from '../report/load-report.ts';

const US_PER_SECOND = 1e6;

interface DirectorActions {
  /** Asks the host process of a VM to act; the answer goes to {@link Director.done}. */
  act(event: VmEvent, number: number): void;
  /** Reports that a VM that is closed will not boot again. */
  noMoreBoots(vm: number): void;
  /** Records the begin of an event, and its end. */
  record(kind: string, vm: number, text: string): void;
}

/** An event, and how it has ended so far. */
interface DirectedEvent extends VmEvent {
  hasBegun: boolean;
  endSeconds: number | null;
  error: string;
}

export class Director {
  readonly #events: readonly DirectedEvent[];
  readonly #actions: DirectorActions;
  readonly #cancels: (() => void)[] = [];
  /** Events that are due, by VM: the first one is in progress, and the others wait for it. */
  readonly #queues = new Map<number, number[]>();
  #startUs = 0;

  constructor(events: readonly VmEvent[], actions: DirectorActions) {
    this.#events = events.map((event) => ({ ...event, hasBegun: false, endSeconds: null, error: '' }));
    this.#actions = actions;
  }

  /** Starts the run's clock. @param startUs on the scale of `nowUs()` */
  start(startUs: number): void {
    this.#startUs = startUs;
    for (const [number, { atUs }] of this.#events.entries())
      this.#cancels.push(after(Math.max(0, startUs + atUs - nowUs()) / 1000, () => this.#due(number)));
  }

  /** An event is due. Actions on one VM are in order: it begins when the last one has ended. */
  #due(number: number): void {
    const { vm } = this.#events[number] as DirectedEvent;
    const queue = this.#queues.get(vm) ?? [];
    this.#queues.set(vm, queue);
    queue.push(number);
    if (queue.length === 1) this.#begin(number);
  }

  #begin(number: number): void {
    const event = this.#events[number] as DirectedEvent;
    event.hasBegun = true;
    this.#actions.record(event.action, event.vm, textOf(event));
    this.#actions.act(event, number);
  }

  /** An action has ended. @param error why it was not done; empty if it was */
  done(number: number, error: string): void {
    const event = this.#events[number];
    if (!event || event.endSeconds !== null) return;
    event.endSeconds = (nowUs() - this.#startUs) / US_PER_SECOND;
    event.error = error;
    this.#actions.record(`${event.action} ${error === '' ? 'done' : 'failed'}`, event.vm, error);
    if (event.action === 'boot' && error !== '' && event.isLast) this.#actions.noMoreBoots(event.vm);
    const queue = this.#queues.get(event.vm);
    queue?.shift();
    if (queue?.[0] !== undefined) this.#begin(queue[0]);
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
        action: textOf(event),
        error: error === '' && endSeconds === null && isPlanned ? unfinished : error,
      };
    });
  }
}

function textOf({ action, name, to, clearRam, stopsDevices }: VmEvent): string {
  const target = to === undefined ? '' : ` to ${to}`;
  return `${action} ${name}${target}${clearRam ? ', RAM cleared' : ''}${stopsDevices ? ', devices stopped' : ''}`;
}
