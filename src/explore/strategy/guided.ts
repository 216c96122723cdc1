/**
 * Strategy that follows recorded choices: exactly, as a replay, or as far as they are possible, to shorten a schedule.
 */
import { type RunView, STALE_UNIT, type Strategy } from '../model/run.ts';

/** Thrown when a recorded choice is not possible: the program is another one. */
export class ReplayError extends Error {
  override name = 'ReplayError';
}

export class Guided implements Strategy {
  readonly #choices: readonly number[];
  readonly #exact: boolean;
  #at = 0;
  #value = 0;

  constructor(choices: readonly number[], exact: boolean) {
    this.#choices = choices;
    this.#exact = exact;
  }

  begin(): void {
    this.#at = 0;
  }

  pick({ enabled, last, threads, steps }: RunView): number {
    for (; this.#at < this.#choices.length; this.#at++) {
      const choice = this.#choices[this.#at] as number;
      const thread = choice % STALE_UNIT;
      this.#value = Math.floor(choice / STALE_UNIT);
      if (enabled.includes(thread)) {
        this.#at++;
        return thread;
      }
      if (this.#exact)
        throw new ReplayError(
          `step ${steps}: ${threads[thread]?.name ?? `thread ${thread}`} cannot run here`,
        );
    }
    if (this.#exact)
      throw new ReplayError(`the schedule continues beyond its ${this.#choices.length} recorded steps`);
    this.#value = 0;
    return enabled.includes(last) ? last : (enabled[0] as number);
  }

  pickValue(count: number): number {
    return Math.min(this.#value, count - 1);
  }

  end(): boolean {
    return false;
  }
}
