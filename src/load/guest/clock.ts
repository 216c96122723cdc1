/**
 * The clock of a load in its guest: waits that a stop ends.
 */
import { after, nowUs } from '#host';

export class RunClock {
  /** Start of the load on the process's clock. */
  #startUs = 0;
  #stopped = false;
  readonly #waiting = new Set<() => void>();

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

  /** Ends every wait; later ones do not wait. */
  stop(): void {
    this.#stopped = true;
    for (const wake of [...this.#waiting]) wake();
  }

  /** Waits until this time on the run's clock, or until {@link stop}. */
  async until(us: number): Promise<void> {
    // A timer may fire a little early.
    while (!this.#stopped && this.us < us) await this.#sleep(us - this.us);
  }

  /** Waits until `work` has ended, at most until this time; resolves to whether it has ended. */
  async endOf(work: Promise<unknown>, us: number): Promise<boolean> {
    let wake = () => {};
    const late = new Promise<false>((resolve) => {
      wake = after(Math.max(0, us - this.us) / 1000, () => resolve(false));
    });
    const ended = await Promise.race([work.then(() => true), late]);
    wake();
    return ended;
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
