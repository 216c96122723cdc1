/**
 * Weak memory: the older values that a plain load may return.
 *
 * Each thread has a vector clock, and each location the history of its writes. Atomic accesses of a location
 * synchronise: a store adds the thread's clock to the location's, a load adds the location's clock to the thread's. A
 * plain load may return any write that no other write known to the thread has replaced. Two loads of one thread do not
 * go back in a location's history.
 *
 * Loads of values that are written later (load buffering), and torn values, are not part of the model.
 */
import { changes, type Step, StepKind } from './step.ts';

interface Write {
  readonly value: number;
  readonly thread: number;
  readonly time: number;
}

/** History and clocks of one schedule. */
export class WeakMemory {
  readonly #clocks: Int32Array[];
  readonly #released = new Map<number, Int32Array>();
  readonly #history = new Map<number, Write[]>();
  /** Index in the history that each thread has reached, by location. */
  readonly #reached: Map<number, number>[];

  constructor(threads: number) {
    this.#clocks = Array.from({ length: threads }, () => new Int32Array(threads));
    this.#reached = Array.from({ length: threads }, () => new Map());
  }

  /** Returns the values that a plain load may return, the newest first. */
  candidates(thread: number, { lo }: Step, newest: number): number[] {
    const history = this.#history.get(lo);
    if (!history) return [newest];
    const clock = this.#clocks[thread] as Int32Array;
    const from = this.#reached[thread]?.get(lo) ?? 0;
    let first = history.length - 1;
    while (first > from) {
      const { thread: writer, time } = history[first] as Write;
      if (writer === thread || (clock[writer] as number) >= time) break;
      first--;
    }
    const values: number[] = [];
    for (let i = history.length - 1; i >= first; i--) values.push((history[i] as Write).value);
    return values;
  }

  /** Notes that a load returned the candidate with index `chosen`. */
  loaded(thread: number, { lo }: Step, chosen: number): void {
    const history = this.#history.get(lo);
    if (history) this.#reached[thread]?.set(lo, history.length - 1 - chosen);
  }

  /** Notes a step other than a plain load, after it was performed. `old` is the word before it. */
  performed(thread: number, step: Step, old: number): void {
    const clock = this.#clocks[thread] as Int32Array;
    const atomic = step.kind >= StepKind.ld && step.kind <= StepKind.wake;
    for (let at = step.lo; at < step.hi; at++) {
      if (atomic) {
        const released = this.#released.get(at) ?? new Int32Array(clock.length);
        this.#released.set(at, released);
        for (let i = 0; i < clock.length; i++) {
          clock[i] = Math.max(clock[i] as number, released[i] as number);
        }
      }
      if (!changes(step)) continue;
      clock[thread] = (clock[thread] as number) + 1;
      this.#write(at, thread, step, old);
      if (atomic) (this.#released.get(at) as Int32Array).set(clock);
    }
  }

  #write(at: number, thread: number, step: Step, old: number): void {
    if (step.words === undefined || step.kind === StepKind.wake) return;
    const time = (this.#clocks[thread] as Int32Array)[thread] as number;
    // The first write of a location is behind the value of the set-up, which every thread knows.
    const before = step.kind === StepKind.fill ? 0 : old;
    const history = this.#history.get(at) ?? [{ value: before, thread, time: 0 }];
    const value = step.words.array[at - step.words.base] as number;
    history.push({ value, thread, time });
    this.#history.set(at, history);
    this.#reached[thread]?.set(at, history.length - 1);
  }
}
