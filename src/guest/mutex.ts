/**
 * Mutual exclusion between the asynchronous flows of one guest.
 */

/** Runs one piece of work at a time, in order of arrival. */
export class Mutex {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs `work` when everything before it has resolved or rejected. */
  run<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }
}

/**
 * Runs shared work concurrently, exclusive work alone. Exclusive work waits for what runs; later shared work waits
 * for it.
 */
export class SharedMutex {
  readonly #exclusive = new Mutex();
  readonly #shared = new Set<Promise<unknown>>();
  #closed: Promise<unknown> | undefined;

  async runShared<Result>(work: () => Promise<Result>): Promise<Result> {
    while (this.#closed) await this.#closed;
    const running = work();
    const settled = running.then(
      () => {},
      () => {},
    );
    this.#shared.add(settled);
    try {
      return await running;
    } finally {
      this.#shared.delete(settled);
    }
  }

  async runExclusive(work: () => Promise<void>): Promise<void> {
    const running = this.#exclusive.run(async () => {
      await Promise.all(this.#shared);
      await work();
    });
    const settled = running.catch(() => {});
    this.#closed = settled;
    try {
      await running;
    } finally {
      if (this.#closed === settled) this.#closed = undefined;
    }
  }
}
