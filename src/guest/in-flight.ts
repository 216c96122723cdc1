/**
 * Calls of a driver that have begun and not ended. A saved driver is data, and a call that waits for hardware cannot
 * be saved: `save()` throws while there is one.
 */

import { Gate } from '../channel/gate.ts';
import { MigrationError } from './migration-settings.ts';

/** Thrown by `save()` while calls are in flight; the script must be paused first. */
export class InFlightError extends MigrationError {
  override name = 'InFlightError';
  /** @param what names of the calls in flight */
  constructor(owner: string, what: readonly string[]) {
    super(`${owner} cannot be saved now: ${what.join(', ')} in flight`);
  }
}

/** Every call in flight of this thread's drivers. */
const calls = new Set<Promise<unknown>>();

/** Resolves when every call that is in flight now has resolved or rejected. Each has a time limit of its own. */
export async function endOfCalls(): Promise<void> {
  await Promise.allSettled(calls);
}

/** Counts the calls in flight of a driver, by name. */
export class InFlight {
  readonly #gate: Gate;
  readonly #counts = new Map<string, number>();

  /** While `gate` is closed, because the VM is paused, calls do not begin. */
  constructor(gate: Gate = new Gate()) {
    this.#gate = gate;
  }

  /** Runs `work` and counts it as `what` until it resolves or rejects. */
  run<Result>(what: string, work: () => Promise<Result>): Promise<Result> {
    return this.#gate.pending?.then(() => this.run(what, work)) ?? this.#run(what, work);
  }

  async #run<Result>(what: string, work: () => Promise<Result>): Promise<Result> {
    this.#count(what, 1);
    let call: Promise<Result> | undefined;
    try {
      call = work();
      calls.add(call);
      return await call;
    } finally {
      if (call) calls.delete(call);
      this.#count(what, -1);
    }
  }

  /**
   * @param others names of what else is in flight
   * @throws InFlightError that names the calls in flight and the others, if any
   */
  expectNone(owner: string, others: readonly string[] = []): void {
    const running = [...this.#counts]
      .filter(([, count]) => count > 0)
      .map(([what, count]) => (count === 1 ? what : `${count} × ${what}`));
    if (running.length + others.length > 0) throw new InFlightError(owner, [...running, ...others]);
  }

  #count(what: string, by: number): void {
    this.#counts.set(what, (this.#counts.get(what) ?? 0) + by);
  }
}
