/**
 * Probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): threads have random priorities, the highest
 * runs, and at a few random steps the running thread gets the lowest. A bug of depth d is found with a probability of at
 * least 1 / (n * k^(d-1)) per schedule, for n threads and k steps.
 */
import type { ModelThread, RunView, Strategy } from '../model/run.ts';
import { type Step, StepKind } from '../model/step.ts';
import { Draw, drawValue } from './draw.ts';

/** Depth of the bugs that are looked for: count of priority changes plus 1. */
const DEPTH = 3;

export class Pct implements Strategy {
  readonly #draw: Draw;
  readonly #changes = new Set<number>();
  #priorities: number[] = [];
  #lowest = 0;
  /** Most steps of a schedule so far. */
  #length = 32;

  constructor(seed: number) {
    this.#draw = new Draw(seed);
  }

  begin(threads: readonly ModelThread[]): void {
    this.#priorities = threads.map(() => 1 + this.#draw.unit());
    this.#lowest = 0;
    this.#changes.clear();
    for (let i = 1; i < DEPTH; i++) this.#changes.add(this.#draw.below(this.#length));
  }

  pick({ enabled, steps }: RunView): number {
    if (this.#changes.has(steps)) this.#lower(this.#highest(enabled));
    return this.#highest(enabled);
  }

  pickValue(count: number): number {
    return drawValue(this.#draw, count);
  }

  /** A thread that yields lets the others run: it would otherwise run alone up to the limit of steps. */
  performed({ kind }: Step, thread: number): void {
    if (kind === StepKind.yield) this.#lower(thread);
  }

  end({ steps }: RunView): boolean {
    this.#length = Math.max(this.#length, steps);
    return true;
  }

  #lower(thread: number): void {
    this.#priorities[thread] = --this.#lowest;
  }

  #highest(enabled: readonly number[]): number {
    let best = enabled[0] as number;
    for (const index of enabled)
      if ((this.#priorities[index] as number) > (this.#priorities[best] as number)) best = index;
    return best;
  }
}
