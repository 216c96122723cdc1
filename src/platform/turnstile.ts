/**
 * Turnstile: real threads perform their accesses to shared memory in a recorded order.
 *
 * The schedule is an array of thread numbers in shared memory. The thread that has the turn performs one step and runs on
 * up to its next one; there it hands the turn to the thread of the next entry and wakes it. No thread controls the
 * others. A thread that waits for a word hands the turn over too; the schedule says when it continues.
 */
import { StepKind, traceHash } from './schedule-trace.ts';
import { add, ld, rd, type SharedWords, st, waitEq, wake, wordsOf, wr } from './shared-memory.ts';

/** Most threads of a schedule. */
export const TURNSTILE_THREADS = 16;
/** Most steps of a schedule. */
export const TURNSTILE_STEPS = 65_536;
/** Limit of a wait for the turn: after it, a schedule that another thread has left counts as broken. */
const TURN_LIMIT_MS = 10_000;

/** Words of the control block. */
const Control = {
  position: 0,
  length: 1,
  hash: 2,
  clockUs: 3,
  /** Number of the schedule: a thread begins when it changes. */
  schedule: 4,
  /** Counts of threads that have set up, and that have ended. */
  ready: 5,
  ended: 6,
  /** Number of the schedule that may start: all threads have set up. */
  started: 7,
  turns: 16,
  /** For each thread the word that it waits for, 0 for none, and whether it was woken. */
  waits: 32,
  woken: 48,
  choices: 64,
} as const;

const TURNSTILE_BYTES = (Control.choices + TURNSTILE_STEPS) * 4;

/** Thrown into a thread when the schedule has ended before the thread. */
export class ScheduleEndedError extends Error {
  override name = 'ScheduleEndedError';
}

/** Thrown when a thread does something else than the schedule says. */
class DivergedError extends Error {
  override name = 'DivergedError';
}

/** Side of the thread that starts schedules. */
export class TurnstileControl {
  readonly sab = new SharedArrayBuffer(TURNSTILE_BYTES);
  readonly #words = wordsOf(this.sab);
  #number = 0;

  /** Lays out a schedule and lets the threads set up. */
  prepare(choices: readonly number[]): void {
    const words = this.#words;
    for (let i = 0; i < TURNSTILE_THREADS; i++) {
      st(words, Control.waits + i, 0, 'link.word');
      st(words, Control.woken + i, 0, 'link.word');
    }
    for (const [i, choice] of choices.entries()) wr(words, Control.choices + i, choice, 'link.word');
    for (const word of [Control.position, Control.hash, Control.clockUs, Control.ready, Control.ended])
      st(words, word, 0, 'link.word');
    st(words, Control.length, choices.length, 'link.word');
    this.#set(Control.schedule, ++this.#number);
  }

  /** Lets the threads run that have set up. */
  start(): void {
    this.#set(Control.started, this.#number);
  }

  /** Waits until `count` threads have set up. Returns false on time-out. */
  waitReady(count: number): boolean {
    return this.#waitFor(Control.ready, count);
  }

  waitEnded(count: number): boolean {
    return this.#waitFor(Control.ended, count);
  }

  /** Returns the hash of the trace, and the count of performed steps. */
  get outcome(): { readonly hash: number; readonly steps: number } {
    return {
      hash: ld(this.#words, Control.hash, 'link.word'),
      steps: ld(this.#words, Control.position, 'link.word'),
    };
  }

  #set(word: number, value: number): void {
    st(this.#words, word, value, 'link.word');
    wake(this.#words, word, 'link.wait');
  }

  #waitFor(word: number, count: number): boolean {
    for (let now = ld(this.#words, word, 'link.word'); now < count; now = ld(this.#words, word, 'link.word'))
      if (!waitEq(this.#words, word, now, TURN_LIMIT_MS, 'link.wait')) return false;
    return true;
  }
}

/** Side of one scheduled thread. */
export class TurnstileThread {
  readonly #words: SharedWords;
  readonly #me: number;
  #number = 0;
  /** True between the thread's first step and its end: its accesses are steps. */
  active = false;
  #holding = false;

  constructor(sab: SharedArrayBuffer, me: number) {
    this.#words = wordsOf(sab);
    this.#me = me;
  }

  /** Blocks until a schedule is prepared, and all threads before this one have set up. */
  awaitSchedule(): void {
    const words = this.#words;
    while (ld(words, Control.schedule, 'link.word') === this.#number)
      waitEq(words, Control.schedule, this.#number, TURN_LIMIT_MS, 'link.wait');
    this.#number = ld(words, Control.schedule, 'link.word');
    for (;;) {
      const ready = ld(words, Control.ready, 'link.word');
      if (ready === this.#me) break;
      waitEq(words, Control.ready, ready, TURN_LIMIT_MS, 'link.wait');
    }
  }

  /** Reports that this thread has set up, waits for the start and performs its first step. */
  begin(): void {
    this.#count(Control.ready);
    for (;;) {
      const started = ld(this.#words, Control.started, 'link.word');
      if (started === this.#number) break;
      waitEq(this.#words, Control.started, started, TURN_LIMIT_MS, 'link.wait');
    }
    this.active = true;
    this.step(StepKind.start, 'thread.start', 0, () => 0);
  }

  /** Ends this thread's part of the schedule. */
  end(): void {
    if (this.#holding) this.#pass();
    this.active = false;
    this.#count(Control.ended);
  }

  get nowUs(): number {
    return ld(this.#words, Control.clockUs, 'link.word');
  }

  /** Waits for the turn and performs a step. Returns its value. */
  step(kind: StepKind, site: string, operand: number, perform: () => number): number {
    this.#take();
    const value = perform();
    this.#note(kind, site, operand, value);
    return value;
  }

  /** Performs a wait: returns at once if `differs`, else hands the turn over until another thread has woken this one. */
  wait(site: string, place: number, operand: number, differs: () => boolean): boolean {
    this.#take();
    if (differs()) {
      this.#note(StepKind.wait, site, operand, 1);
      return true;
    }
    this.#note(StepKind.wait, site, operand, 0);
    this.await(place);
    return this.#sleep(site);
  }

  /** Notes that this thread will wait for a word, without waiting. */
  await(place: number): void {
    st(this.#words, Control.woken + this.#me, 0, 'link.word');
    st(this.#words, Control.waits + this.#me, place, 'link.word');
  }

  /** Waits until the wait noted by {@link await} has ended. */
  join(): boolean {
    this.#take();
    if (ld(this.#words, Control.woken + this.#me, 'link.word') !== 0) {
      this.#note(StepKind.join, 'await', 0, 1);
      return true;
    }
    this.#note(StepKind.join, 'await', 0, 0);
    return this.#sleep('await');
  }

  /** Wakes the threads that wait for a word. The caller has the turn. */
  wake(place: number): void {
    for (let i = 0; i < TURNSTILE_THREADS; i++) {
      if (rd(this.#words, Control.waits + i, 'link.word') !== place) continue;
      st(this.#words, Control.waits + i, 0, 'link.word');
      st(this.#words, Control.woken + i, 1, 'link.word');
    }
  }

  #sleep(site: string): boolean {
    this.#take();
    if (ld(this.#words, Control.woken + this.#me, 'link.word') === 0)
      throw new DivergedError(`thread ${this.#me} continues at ${site}, but nobody has woken it`);
    this.#note(StepKind.resume, site, 0, 1);
    return true;
  }

  #note(kind: StepKind, site: string, operand: number, value: number): void {
    const words = this.#words;
    const hash = traceHash(rd(words, Control.hash, 'link.word'), this.#me, kind, site, operand, value);
    wr(words, Control.hash, hash, 'link.word');
    wr(words, Control.clockUs, rd(words, Control.clockUs, 'link.word') + 1, 'link.word');
  }

  /** Hands the turn over, and waits until this thread has it again. */
  #take(): void {
    if (this.#holding) this.#pass();
    const words = this.#words;
    for (;;) {
      const turns = ld(words, Control.turns + this.#me, 'link.word');
      const position = ld(words, Control.position, 'link.word');
      if (position >= ld(words, Control.length, 'link.word'))
        throw new ScheduleEndedError('the schedule has ended');
      if (ld(words, Control.choices + position, 'link.word') === this.#me) break;
      if (!waitEq(words, Control.turns + this.#me, turns, TURN_LIMIT_MS, 'link.wait'))
        throw new DivergedError(`thread ${this.#me} has waited ${TURN_LIMIT_MS} ms for step ${position}`);
    }
    this.#holding = true;
  }

  #pass(): void {
    const words = this.#words;
    this.#holding = false;
    const position = ld(words, Control.position, 'link.word') + 1;
    st(words, Control.position, position, 'link.word');
    const next =
      position < ld(words, Control.length, 'link.word')
        ? ld(words, Control.choices + position, 'link.word')
        : -1;
    for (let i = 0; i < TURNSTILE_THREADS; i++) {
      if (next !== -1 && next !== i) continue;
      add(words, Control.turns + i, 1, 'link.word');
      wake(words, Control.turns + i, 'link.wait');
    }
  }

  #count(word: number): void {
    add(this.#words, word, 1, 'link.word');
    wake(this.#words, word, 'link.wait');
  }
}

let current: TurnstileThread | undefined;
let placeOf: (buffer: SharedArrayBuffer) => number = () => 0;

/** Makes this thread a scheduled one. `place` numbers its buffers, from 1 on and equal in all threads. */
export function enterTurnstile(thread: TurnstileThread, place: (buffer: SharedArrayBuffer) => number): void {
  current = thread;
  placeOf = place;
}

/** Returns this thread's turnstile while its accesses are steps. */
export const turnstile = (): TurnstileThread | undefined => (current?.active ? current : undefined);

/** Words of the largest buffer, for the numbers of places. */
const PLACE_UNIT = 2 ** 22;

/** Returns a number of a word that is equal in all threads. */
export function placeOfWord(words: SharedWords, index: number): number {
  const view = words as unknown as Int32Array<SharedArrayBuffer>;
  return placeOf(view.buffer) * PLACE_UNIT + view.byteOffset / 4 + index;
}
