/**
 * Turns of the event loop between iterations: VUs whose commands complete at once would keep timers from running, and
 * with them the arrivals of open stages.
 */
import { nowUs, yieldTurn } from '#host';

/** Longest time without a turn. */
const TURN_US = 1_000;

export class Turns {
  #lastUs = 0;
  #pending: Promise<void> | undefined;

  /**
   * Returns a promise of the next turn if one is due, the same for all VUs; else undefined.
   * @param us the time now, which the caller has just read
   */
  take(us: number): Promise<void> | undefined {
    if (!this.#pending && us - this.#lastUs >= TURN_US) this.#pending = this.#turn();
    return this.#pending;
  }

  async #turn(): Promise<void> {
    await yieldTurn();
    this.#lastUs = nowUs();
    this.#pending = undefined;
  }
}
