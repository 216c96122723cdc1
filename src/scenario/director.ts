/**
 * Carries out the events of a scenario at their times of the run's clock, and records how each has ended.
 */
import { after, nowUs } from '#host';
import { type ActionName, EVENTS_LIMIT, type VmEvent } from '../load/events.ts';
import type { EventResult } from '../report/load-report.ts';

const US_PER_SECOND = 1e6;
/** State of an event that has just been added. */
const SOON = { isLast: false, hasBegun: false, endSeconds: null, error: '' };

interface DirectorActions {
  /** Asks the host process of a VM to act; the answer goes to {@link Director.done}. */
  act(event: VmEvent, number: number): void;
  /** Reports that a VM that is closed will not boot again. */
  noMoreBoots(vm: number): void;
  /** Records the begin of an event, and its end. @param vm null for the script */
  record(kind: string, vm: number | null, text: string): void;
}

/** An event, and how it has ended so far. */
interface DirectedEvent extends VmEvent {
  hasBegun: boolean;
  endSeconds: number | null;
  error: string;
  /** Reports the end to the script that has asked for the action. */
  readonly onEnd?: (error: string) => void;
}

/** Options of an action of the scenario's script. */
type ScriptedEvent = Omit<VmEvent, 'atUs' | 'isLast'>;

export class Director {
  readonly #events: DirectedEvent[];
  readonly #actions: DirectorActions;
  readonly #cancels: (() => void)[] = [];
  /** Events that are due, by VM: the first one is in progress, and the others wait for it. */
  readonly #queues = new Map<number, number[]>();
  /** VMs that are paused, by number. */
  readonly #paused = new Map<number, string>();
  /** VMs that boot, by number, with the calls that wait for that. */
  readonly #booting = new Map<number, (() => void)[]>();
  /** True while the scenario's script may act: a VM that is closed may boot again. */
  #isScripted = false;
  #hasStopped = false;
  #failure: EventResult | undefined;
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

  /** A script starts, which may act. */
  scriptStarted(): void {
    this.#isScripted = true;
  }

  /** Carries out an action of the script now; resolves to why it was not done, or to an empty text. */
  act(event: ScriptedEvent): Promise<string> {
    if (this.#hasStopped || !this.#isScripted)
      return Promise.resolve('the run ends; accepted: a run that lasts');
    if (this.#events.length >= EVENTS_LIMIT)
      return Promise.resolve(`${EVENTS_LIMIT} actions so far; accepted: up to ${EVENTS_LIMIT} in a run`);
    return new Promise((onEnd) => {
      const start = { atUs: nowUs() - this.#startUs, isLast: false, hasBegun: false };
      this.#events.push({ ...event, ...start, endSeconds: null, error: '', onEnd });
      this.#due(this.#events.length - 1);
    });
  }

  /** Resolves when the guest of a VM has booted; at once if it does not boot. */
  whenBooted(vm: number): Promise<void> {
    const waiting = this.#booting.get(vm);
    return waiting ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve();
  }

  /** The guest of a VM has booted, or it will not. */
  booted(vm: number): void {
    const waiting = this.#booting.get(vm);
    this.#booting.delete(vm);
    for (const resolve of waiting ?? []) resolve();
  }

  /** The script has ended. VMs that it leaves closed end, and those that it leaves paused continue. @param error or empty */
  scriptEnded(error: string): void {
    this.#isScripted = false;
    for (const vm of new Set(this.#events.map((event) => event.vm)))
      if (!this.#awaits(vm, ['boot'])) this.#actions.noMoreBoots(vm);
    const left = [...this.#paused].filter(([vm]) => !this.#awaits(vm, ['resume', 'crash']));
    const paused = left.map(([, name]) => name);
    const why = error || (paused.length > 0 ? `it has left ${paused.join(', ')} paused` : '');
    if (why !== '') this.#fail(why);
    if (this.#hasStopped) return;
    for (const [vm, name] of left) {
      const resume = {
        action: 'resume',
        vm,
        name,
        to: undefined,
        clearRam: false,
        stopsDevices: false,
      } as const;
      this.#events.push({ ...resume, ...SOON, atUs: nowUs() - this.#startUs });
      this.#due(this.#events.length - 1);
    }
  }

  /** Records that the script has failed. */
  #fail(error: string): void {
    const seconds = (nowUs() - this.#startUs) / US_PER_SECOND;
    this.#failure = { seconds, endSeconds: seconds, action: 'director(run)', error };
    this.#actions.record('director failed', null, error);
  }

  /** Returns whether an event of one of these actions on the VM has not ended. */
  #awaits(vm: number, actions: readonly ActionName[]): boolean {
    return this.#events.some(
      (event) => event.vm === vm && event.endSeconds === null && actions.includes(event.action),
    );
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
    if ((event.action === 'boot' || event.action === 'reboot') && !this.#booting.has(event.vm))
      this.#booting.set(event.vm, []);
    this.#actions.record(event.action, event.vm, textOf(event));
    this.#actions.act({ ...event, isLast: event.isLast && !this.#isScripted }, number);
  }

  /** An action has ended. @param error why it was not done; empty if it was */
  done(number: number, error: string): void {
    const event = this.#events[number];
    if (!event || event.endSeconds !== null) return;
    event.endSeconds = (nowUs() - this.#startUs) / US_PER_SECOND;
    event.error = error;
    if (error !== '' || event.action === 'crash' || event.action === 'shutdown') this.booted(event.vm);
    this.#actions.record(`${event.action} ${error === '' ? 'done' : 'failed'}`, event.vm, error);
    if (event.action === 'boot' && error !== '' && event.isLast) this.#actions.noMoreBoots(event.vm);
    if (error === '' && event.action === 'pause') this.#paused.set(event.vm, event.name);
    else if (error === '' && event.action !== 'boot') this.#paused.delete(event.vm);
    event.onEnd?.(error);
    const queue = this.#queues.get(event.vm);
    queue?.shift();
    if (queue?.[0] !== undefined) this.#begin(queue[0]);
  }

  /** No more events begin. */
  stop(): void {
    this.#hasStopped = true;
    for (const cancel of this.#cancels) cancel();
  }

  /** Ends the clock; returns how the events have ended. @param isPlanned false for a run that has ended before its stages */
  end(isPlanned: boolean): readonly EventResult[] {
    this.stop();
    const results = this.#events.map((event) => {
      const { atUs, hasBegun, endSeconds, error } = event;
      const unfinished = hasBegun ? 'the run has ended meanwhile' : 'the run has ended before';
      return {
        seconds: atUs / US_PER_SECOND,
        endSeconds,
        action: textOf(event),
        error: error === '' && endSeconds === null && isPlanned ? unfinished : error,
      };
    });
    return this.#failure ? [...results, this.#failure] : results;
  }
}

function textOf({ action, name, to, clearRam, stopsDevices }: VmEvent): string {
  const target = to === undefined ? '' : ` to ${to}`;
  return `${action} ${name}${target}${clearRam ? ', RAM cleared' : ''}${stopsDevices ? ', devices stopped' : ''}`;
}
