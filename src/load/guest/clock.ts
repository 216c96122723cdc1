/**
 * The clock of a load in its guest: waits that a stop ends, and that do not end while the load is held.
 */
import { after, nowUs, yieldTurn } from '#host';
import { Gate } from '../../channel/gate.ts';

export class RunClock {
  /** Start of the load on the process's clock. */
  #startUs = 0;
  #stopped = false;
  readonly #waiting = new Set<() => void>();
  readonly #gate = new Gate();

  /** Sets the start, on the scale of `nowUs()`. */
  start(startUs: number): void {
    this.#startUs = startUs;
  }

  /** Microseconds since the start of the load; negative before it. */
  get us(): number {
    return nowUs() - this.#startUs;
  }

  /** Returns a time of the run on the scale of `nowUs()`: exact, because no clock is read. */
  onProcessClock(us: number): number {
    return this.#startUs + us;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** Promise of the end of a hold, in which no iteration may start; undefined without one. Time continues. */
  get held(): Promise<void> | undefined {
    return this.#gate.pending;
  }

  hold(): void {
    this.#gate.close();
  }

  release(): void {
    this.#gate.open();
  }

  /** Ends every wait; later ones do not wait. */
  stop(): void {
    this.#stopped = true;
    for (const wake of [...this.#waiting]) wake();
  }

  /** Waits until this time on the run's clock, or until {@link stop}; then until the load is not held. */
  async until(us: number): Promise<void> {
    // A timer may fire a little early.
    for (let left = us - this.us; !this.#stopped && left > 0; left = us - this.us) await this.#sleep(left);
    while (this.held) await this.held;
  }

  /** Waits until `work` has ended, at most until this time; resolves to whether it has ended. @throws its error */
  async endOf(work: Promise<unknown>, us: number): Promise<boolean> {
    let hasEnded = false;
    const end = work.then(() => {
      hasEnded = true;
    });
    let cancel = () => {};
    const late = new Promise<void>((resolve) => {
      cancel = after(Math.max(0, us - this.us) / 1000, resolve);
    });
    await Promise.race([end, late]);
    cancel();
    // Work that a hold has kept from its end reaches it in the next turn.
    while (!hasEnded && this.held) {
      await this.held;
      await yieldTurn();
    }
    return hasEnded;
  }

  #sleep(us: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        cancel();
        this.#waiting.delete(wake);
        resolve();
      };
      const cancel = after(Math.ceil(us / 1000), wake);
      this.#waiting.add(wake);
    });
  }
}
