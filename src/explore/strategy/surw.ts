/**
 * Selectively uniform random walk (Zhao and others, ASPLOS 2025): a few locations are chosen for a schedule, and the
 * orders of the accesses to them are sampled uniformly. A thread with more of these accesses left is chosen more often, in
 * proportion; the counts are the means of earlier schedules.
 *
 * 1. The *intended* thread is drawn by the chosen accesses that it has left.
 * 2. Other threads run at random up to a chosen access of theirs, where they stop.
 * 3. When the intended thread has performed a chosen access, the next one is drawn.
 */
import type { ModelThread, RunView, Strategy } from '../model/run.ts';
import { changes, type Step } from '../model/step.ts';
import { Draw, drawValue } from './draw.ts';

/** Every so many schedules observe all locations, to count accesses. */
const PROFILED_OF = 16;

interface Location {
  /** Count of accesses by thread, as observed last. */
  readonly counts: number[];
  written: boolean;
}

export class Surw implements Strategy {
  readonly #draw: Draw;
  #locations = new Map<number, Location>();
  #observed = new Map<number, Location>();
  #chosen: number | undefined;
  #left: number[] = [];
  #intended = -1;
  #schedules = 0;
  #profiles = true;

  constructor(seed: number) {
    this.#draw = new Draw(seed);
  }

  begin(threads: readonly ModelThread[]): void {
    this.#profiles = this.#schedules++ % PROFILED_OF === 0;
    this.#observed = new Map();
    const shared = [...this.#locations].filter(
      ([, { counts, written }]) => written && counts.filter((count) => count > 0).length > 1,
    );
    const drawn = shared[this.#draw.below(shared.length)];
    this.#chosen = drawn?.[0];
    this.#left = threads.map(({ index }) => drawn?.[1].counts[index] ?? 0);
    this.#intended = this.#intend();
  }

  pick(view: RunView): number {
    const { enabled, threads } = view;
    if (this.#chosen === undefined) return enabled[this.#draw.below(enabled.length)] as number;
    const free = enabled.filter((index) => index === this.#intended || !this.#isChosen(threads[index]!.next));
    if (free.length > 0) return free[this.#draw.below(free.length)] as number;
    // The intended thread sleeps or has ended: another one takes its place.
    this.#intended = enabled[this.#draw.below(enabled.length)] as number;
    return this.#intended;
  }

  pickValue(count: number): number {
    return drawValue(this.#draw, count);
  }

  performed(step: Step, thread: number): void {
    if (this.#profiles && step.hi - step.lo === 1) this.#observe(step, thread);
    if (!this.#isChosen(step)) return;
    this.#left[thread] = Math.max(0, (this.#left[thread] as number) - 1);
    if (thread === this.#intended) this.#intended = this.#intend();
  }

  end(): boolean {
    if (this.#profiles) this.#locations = this.#observed;
    return true;
  }

  #isChosen({ lo, hi }: Step): boolean {
    return this.#chosen !== undefined && lo <= this.#chosen && this.#chosen < hi;
  }

  /** Draws a thread in proportion to the accesses that it has left. */
  #intend(): number {
    let at = this.#draw.below(this.#left.reduce((sum, count) => sum + count, 0));
    for (const [index, count] of this.#left.entries()) {
      if (at < count) return index;
      at -= count;
    }
    return -1;
  }

  #observe(step: Step, thread: number): void {
    const location = this.#observed.get(step.lo) ?? { counts: [], written: false };
    this.#observed.set(step.lo, location);
    location.counts[thread] = (location.counts[thread] ?? 0) + 1;
    location.written ||= changes(step);
  }
}
