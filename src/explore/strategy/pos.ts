/**
 * Partial-order sampling (Yuan and others, CAV 2018): each announced step has a random priority, and the highest is
 * performed. A step that conflicts with the performed one gets a new priority, so the order of conflicting steps is
 * sampled, and not that of steps whose order does not matter.
 */

import { type ModelThread, type RunView, Status, type Strategy } from '../model/run.ts';
import { conflict, type Step, StepKind } from '../model/step.ts';
import { Draw, drawValue } from './draw.ts';

export class Pos implements Strategy {
  readonly #draw: Draw;
  #priorities: number[] = [];

  constructor(seed: number) {
    this.#draw = new Draw(seed);
  }

  begin(threads: readonly ModelThread[]): void {
    this.#priorities = threads.map(() => this.#draw.unit());
  }

  pick({ enabled }: RunView): number {
    let best = enabled[0] as number;
    for (const index of enabled)
      if ((this.#priorities[index] as number) > (this.#priorities[best] as number)) best = index;
    return best;
  }

  pickValue(count: number): number {
    return drawValue(this.#draw, count);
  }

  performed(step: Step, thread: number, { threads }: RunView): void {
    for (const other of threads) {
      if (other.index === thread) continue;
      if (other.status === Status.ready && conflict(step, other.next))
        this.#priorities[other.index] = this.#draw.unit();
    }
    // A thread that yields must not run again before the others only because it draws well.
    this.#priorities[thread] = step.kind === StepKind.yield ? this.#draw.unit() / 2 ** 16 : this.#draw.unit();
  }

  end(): boolean {
    return true;
  }
}
