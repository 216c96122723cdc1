/**
 * One schedule of a harness: the threads, their next steps, waits, wakes and the virtual clock.
 *
 * A thread announces its next step and stops. A strategy chooses the thread whose step is performed; the thread then
 * runs alone up to its next announcement.
 */
import { traceHash } from '../../platform/schedule-trace.ts';
import type { Harness } from '../harness.ts';
import { ViolationError } from '../harness.ts';
import { setClock } from './host.ts';
import { memory } from './memory.ts';
import {
  type Deferred,
  endCallback,
  ModelError,
  now,
  PendingWait,
  resultOf,
  Steps,
  useDeferred,
} from './runtime.ts';
import { perform, plainStep, type Step, StepKind } from './step.ts';
import { WeakMemory } from './weak-memory.ts';

/** Limit of steps by default. */
const STEP_LIMIT = 20_000;
/** Most threads of a harness, with the deaths of threads. */
const THREADS_LIMIT = 16;
/** Weight of a stale value in a recorded choice: its lower part is the thread. */
export const STALE_UNIT = 64;

/** Deadline of a death that has not come: it is possible, never necessary, so a schedule does not wait for it. */
const NEVER_DUE = -1;

export const Status = { ready: 0, blocked: 1, ended: 2 } as const;
type Status = (typeof Status)[keyof typeof Status];

/** A thread of the model. */
export interface ModelThread {
  readonly index: number;
  readonly name: string;
  /** The announced step. */
  next: Step;
  status: Status;
  /** Count of steps performed. */
  steps: number;
}

interface Thread extends ModelThread {
  body: Generator<Step, unknown, unknown> | undefined;
  readonly begin: () => unknown;
  /** Value that a resumed thread gets. */
  resumed: unknown;
  /** End of a wait or a sleep in virtual time; Infinity without one. */
  deadline: number;
  result: unknown;
  readonly deferred: Deferred;
}

/** State of a run that a strategy sees. */
export interface RunView {
  readonly threads: readonly ModelThread[];
  /** Indices of the threads that can run, ascending. */
  readonly enabled: readonly number[];
  /** Thread of the last step, or -1. */
  readonly last: number;
  readonly steps: number;
}

/** Chooser of a schedule. */
export interface Strategy {
  /** Starts a schedule. */
  begin(threads: readonly ModelThread[]): void;
  /** Returns the index of the thread whose step is next: one of the enabled. */
  pick(view: RunView): number;
  /** Returns the index of the value that a plain load returns; 0 is the newest. Only with weak memory. */
  pickValue(count: number): number;
  /** Notes a performed step. The thread has announced its next one. */
  performed?(step: Step, thread: number, view: RunView): void;
  /** Ends a schedule. Returns false when no schedule is left. */
  end(view: RunView): boolean;
}

/** A broken rule. */
interface Violation {
  readonly rule: string;
  readonly message: string;
  /** Name of the thread that found it; undefined for a check or a deadlock. */
  readonly thread: string | undefined;
}

/** A performed step, for tables. */
export interface TraceStep {
  readonly thread: number;
  readonly step: Step;
  readonly value: unknown;
  /** True if a plain load returned an older value. */
  readonly stale: boolean;
  /** True if the step put its thread to sleep. */
  readonly slept: boolean;
}

export interface RunResult {
  readonly violation: Violation | undefined;
  readonly choices: readonly number[];
  readonly hash: number;
  readonly steps: number;
  readonly threads: readonly string[];
  readonly trace: readonly TraceStep[];
}

export interface RunOptions {
  readonly weak?: boolean;
  readonly trace?: boolean;
}

class Run implements RunView {
  readonly threads: Thread[];
  readonly enabled: number[] = [];
  readonly trace: TraceStep[] = [];
  readonly choices: number[] = [];
  last = -1;
  steps = 0;
  hash = 0;
  readonly #harness: Harness;
  readonly #state: unknown;
  readonly #weak: WeakMemory | undefined;
  readonly #keepTrace: boolean;
  readonly #pending: { readonly wait: PendingWait; readonly deadline: number }[] = [];
  #clockUs = 0;
  #violation: Violation | undefined;

  constructor(harness: Harness, options: RunOptions) {
    this.#harness = harness;
    memory.reset();
    setClock(0);
    this.#state = now(harness.setup());
    this.threads = threadsOf(harness, this.#state, (index) => this.#kill(index));
    if (this.threads.length > THREADS_LIMIT)
      throw new ModelError(`${this.threads.length} threads; accepted: 1 to ${THREADS_LIMIT}`);
    this.#weak = options.weak ? new WeakMemory(this.threads.length) : undefined;
    this.#keepTrace = options.trace ?? false;
  }

  execute(strategy: Strategy): RunResult {
    const limit = this.#harness.stepLimit ?? STEP_LIMIT;
    strategy.begin(this.threads);
    while (this.#violation === undefined && this.#findEnabled()) {
      if (this.steps >= limit) {
        this.#fail('no-progress', `the threads have not ended after ${limit} steps`, undefined);
        break;
      }
      const index = strategy.pick(this);
      const thread = this.threads[index] as Thread;
      const step = thread.next;
      this.choices.push(index);
      this.#performStep(thread, step, strategy);
      this.last = index;
      strategy.performed?.(step, index, this);
    }
    if (this.#violation === undefined) this.#check();
    return {
      violation: this.#violation,
      choices: this.choices,
      hash: this.hash,
      steps: this.steps,
      threads: this.threads.map(({ name }) => name),
      trace: this.trace,
    };
  }

  /** Finds the threads that can run. Returns false if none can, which ends the schedule. */
  #findEnabled(): boolean {
    const { enabled, threads } = this;
    enabled.length = 0;
    let [alive, runs] = [false, false];
    for (let i = 0; i < threads.length; i++) {
      const { status, deadline } = threads[i] as Thread;
      if (status === Status.ready) {
        enabled.push(i);
        if (deadline !== NEVER_DUE) runs = true;
      }
      if (status !== Status.ended && deadline !== NEVER_DUE) alive = true;
    }
    if (runs || !alive) return alive;
    return this.#passTime();
  }

  /** No thread can run: the clock goes to the end of the first wait, or this is a deadlock. */
  #passTime(): boolean {
    const sleeping = this.threads.filter(({ status }) => status === Status.blocked);
    const ends = sleeping.filter(({ next }) => this.#harness.timeouts || next.kind === StepKind.sleep);
    const first = Math.min(...ends.map(({ deadline }) => deadline));
    if (!Number.isFinite(first)) {
      const text = sleeping.map(({ name, next }) => `${name} sleeps at ${placeOf(next)}`);
      this.#fail('lost-wake', `no thread can run, and nobody will wake one: ${text.join('; ')}`, undefined);
      return false;
    }
    this.#clockUs = Math.max(this.#clockUs, first);
    setClock(this.#clockUs);
    for (const wait of this.#pending)
      if (wait.deadline <= this.#clockUs && wait.wait.outcome === undefined) wait.wait.outcome = false;
    for (const thread of ends) if (thread.deadline <= this.#clockUs) this.#resume(thread, false);
    return this.#findEnabled();
  }

  #performStep(thread: Thread, step: Step, strategy: Strategy): void {
    this.steps++;
    thread.steps++;
    if (thread.deadline === NEVER_DUE) thread.deadline = Number.POSITIVE_INFINITY;
    setClock(++this.#clockUs);
    let value: unknown;
    let stale = false;
    if (step.kind < StepKind.rd || (step.kind >= StepKind.wait && step.kind <= StepKind.wake)) {
      value = this.#control(thread, step);
      if (this.#weak) this.#weak.performed(thread.index, step, 0);
    } else if (this.#weak && step.kind === StepKind.rd) {
      [value, stale] = this.#loadWeakly(this.#weak, thread.index, step, strategy);
    } else {
      const old = perform(step);
      this.#weak?.performed(thread.index, step, old);
      value = old;
    }
    const slept = thread.status === Status.blocked;
    const shown = typeof value === 'number' ? value : value === true ? 1 : 0;
    this.hash = traceHash(this.hash, thread.index, step.kind, step.site, step.a, shown);
    if (this.#keepTrace) this.trace.push({ thread: thread.index, step, value, stale, slept });
    if (!slept && thread.status !== Status.ended) this.#advance(thread, value);
  }

  #loadWeakly(weak: WeakMemory, thread: number, step: Step, strategy: Strategy): [number, boolean] {
    const values = weak.candidates(thread, step, perform(step));
    const chosen = values.length > 1 ? strategy.pickValue(values.length) : 0;
    weak.loaded(thread, step, chosen);
    this.choices[this.choices.length - 1] = (this.choices.at(-1) as number) + chosen * STALE_UNIT;
    return [values[chosen] as number, chosen > 0];
  }

  /** Performs a start, a wait or a wake. Returns its value; a thread that sleeps gets one later. */
  #control(thread: Thread, step: Step): unknown {
    switch (step.kind) {
      case StepKind.resume:
        return thread.resumed;
      case StepKind.sleep:
        return this.#block(thread, this.#clockUs + step.a * 1000);
      case StepKind.join: {
        const { outcome } = step.payload as PendingWait;
        return outcome ?? this.#block(thread, this.#deadlineOf(step.payload as PendingWait));
      }
      case StepKind.wait:
        if (step.words?.array[step.index] !== step.a) return true;
        return this.#block(thread, this.#clockUs + step.b * 1000);
      case StepKind.waitAsync: {
        if (step.words?.array[step.index] !== step.a) return undefined;
        const wait = new PendingWait(step.site, step.lo);
        this.#pending.push({ wait, deadline: this.#clockUs + step.b * 1000 });
        return wait;
      }
      case StepKind.wake:
        return this.#wake(step.lo);
      default:
        return undefined;
    }
  }

  #deadlineOf(wait: PendingWait): number {
    return this.#pending.find((pending) => pending.wait === wait)?.deadline ?? Number.POSITIVE_INFINITY;
  }

  #block(thread: Thread, deadline: number): undefined {
    thread.status = Status.blocked;
    thread.deadline = deadline;
  }

  #resume(thread: Thread, value: unknown): void {
    thread.status = Status.ready;
    thread.resumed = value;
    thread.deadline = Number.POSITIVE_INFINITY;
    thread.next = plainStep(StepKind.resume, thread.next.site);
  }

  /** Wakes all threads that wait on a location. */
  #wake(at: number): undefined {
    for (let i = this.#pending.length - 1; i >= 0; i--) {
      const pending = this.#pending[i]!;
      if (pending.wait.at !== at) continue;
      pending.wait.outcome ??= true;
      this.#pending.splice(i, 1);
    }
    for (const thread of this.threads) {
      if (thread.status !== Status.blocked) continue;
      const { kind, lo, payload } = thread.next;
      if (kind === StepKind.wait && lo === at) this.#resume(thread, true);
      else if (kind === StepKind.join && (payload as PendingWait).outcome !== undefined)
        this.#resume(thread, (payload as PendingWait).outcome);
    }
  }

  /** Runs a thread up to its next step. */
  #advance(thread: Thread, value: unknown): void {
    useDeferred(thread.deferred);
    try {
      if (!thread.body) {
        const begun = thread.begin();
        if (!(begun instanceof (Steps as unknown as new () => object))) {
          thread.status = Status.ended;
          thread.result = begun;
          return;
        }
        thread.body = begun as Generator<Step, unknown, unknown>;
      }
      let { done, value: next } = thread.body.next(value);
      if (done) {
        thread.result ??= resultOf(next);
        if (thread.deferred.length > 0) {
          // The end of the thread's last callback.
          thread.body = endCallback();
          ({ done, value: next } = thread.body.next());
        }
      }
      if (done) thread.status = Status.ended;
      else thread.next = next as Step;
    } catch (error) {
      if (error instanceof ModelError) throw error;
      this.#failWith(error, thread.name);
    }
  }

  #kill(index: number): unknown {
    const thread = this.threads[index] as Thread;
    if (thread.status === Status.ended) return undefined;
    thread.status = Status.ended;
    return this.#harness.died?.(this.#state, thread.name);
  }

  #check(): void {
    const results = Object.fromEntries(this.threads.map(({ name, result }) => [name, result]));
    try {
      now(this.#harness.check?.(this.#state, results));
    } catch (error) {
      if (error instanceof ModelError) throw error;
      this.#failWith(error, undefined);
    }
  }

  #failWith(error: unknown, thread: string | undefined): void {
    const rule = error instanceof ViolationError ? error.rule : 'error';
    const text = error instanceof Error ? error.message : String(error);
    this.#fail(rule, rule === 'error' && error instanceof Error ? `${error.name}: ${text}` : text, thread);
  }

  #fail(rule: string, message: string, thread: string | undefined): void {
    this.#violation = { rule, message, thread };
  }
}

/** Returns the site and the word of a wait. */
function placeOf({ site, lo, payload }: Step): string {
  return payload instanceof PendingWait ? `${payload.site}, word ${payload.at}` : `${site}, word ${lo}`;
}

/** Returns the threads of a harness. Each that may die has one more, whose only step is its death. */
function threadsOf(harness: Harness, state: unknown, kill: (index: number) => unknown): Thread[] {
  const names = Object.keys(harness.threads);
  const thread = (index: number, name: string, begin: () => unknown, deadline: number): Thread => ({
    index,
    name,
    begin,
    deadline,
    next: plainStep(StepKind.start, 'thread.start'),
    status: Status.ready,
    steps: 0,
    body: undefined,
    resumed: undefined,
    result: undefined,
    deferred: [],
  });
  const threads = names.map((name, index) =>
    thread(index, name, () => harness.threads[name]?.(state), Number.POSITIVE_INFINITY),
  );
  for (const name of harness.mayDie ?? []) {
    const victim = names.indexOf(name);
    if (victim < 0) throw new ModelError(`mayDie: no thread ${name}; accepted: ${names.join(', ')}`);
    threads.push(thread(threads.length, `death of ${name}`, () => kill(victim), NEVER_DUE));
  }
  return threads;
}

/** Runs one schedule. */
export const runOnce = (harness: Harness, strategy: Strategy, options: RunOptions = {}): RunResult =>
  new Run(harness, options).execute(strategy);
