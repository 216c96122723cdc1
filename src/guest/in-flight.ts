/**
 * What a driver has begun and not ended. A guest's knowledge travels to another host as data, and a call that waits for
 * hardware is none: who saves asks here first.
 */

/** Thrown by a `save()` while something is under way: the script has to be paused first. */
export class InFlightError extends Error {
  /** @param what under way, in words */
  constructor(owner: string, what: readonly string[]) {
    super(`${owner} cannot be saved now: ${what.join(', ')} under way`);
    this.name = 'InFlightError';
  }
}

export class InFlight {
  readonly #counts = new Map<string, number>();

  /** Runs `work`, counted as `what` until it has ended, well or badly. */
  async run<Result>(what: string, work: () => Promise<Result>): Promise<Result> {
    this.#count(what, 1);
    try {
      return await work();
    } finally {
      this.#count(what, -1);
    }
  }

  /** @throws InFlightError naming what is under way, if anything is */
  expectNone(owner: string): void {
    const running = [...this.#counts].filter(([, count]) => count > 0);
    if (running.length === 0) return;
    throw new InFlightError(
      owner,
      running.map(([what, count]) => (count === 1 ? what : `${count} × ${what}`)),
    );
  }

  #count(what: string, by: number): void {
    this.#counts.set(what, (this.#counts.get(what) ?? 0) + by);
  }
}
