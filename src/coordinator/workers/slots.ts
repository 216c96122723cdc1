/**
 * Slots for work of which only so much runs at one time, in order of arrival.
 */
export class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  /**
   * Runs `work` when a slot is free.
   * @param after called then; the slot is free again when its promise has resolved, for which nothing else waits
   */
  async run<Result>(work: () => Promise<Result>, after = () => Promise.resolve()): Promise<Result> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      void after()
        .catch(() => {})
        .then(() => this.#release());
    }
  }

  #release(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }
}
