/**
 * Random walk: each thread that can run is equally likely to perform the next step.
 */
import type { RunView, Strategy } from '../model/run.ts';
import { Draw, drawValue } from './draw.ts';

export class RandomWalk implements Strategy {
  readonly #draw: Draw;

  constructor(seed: number) {
    this.#draw = new Draw(seed);
  }

  begin(): void {}

  pick({ enabled }: RunView): number {
    return enabled[this.#draw.below(enabled.length)] as number;
  }

  pickValue(count: number): number {
    return drawValue(this.#draw, count);
  }

  end(): boolean {
    return true;
  }
}
