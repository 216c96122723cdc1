/**
 * Interrupts that a busy device has raised and that its guest has not been woken for yet, as interrupt moderation of
 * network and storage controllers. A wake-up costs the guest more than many small commands, so that one serves several.
 *
 * A batch is delivered when the device has no more work at once, when it is due, and before anything else that the guest
 * or the coordinator may see of the device: PCI orders an interrupt before a later answer.
 */
import { MAX_VECTORS } from '../channel/device-link.ts';

/** Most interrupts of a batch. */
export const BATCH_LIMIT = 16;
/** Longest time for which an interrupt is held back while the device is busy, but for the step that runs. */
export const HOLD_US = 50;

/** Receiver of interrupts. */
export interface InterruptTarget {
  countInterrupts(vector: number, count: number): void;
  wakeGuest(): void;
}

export class InterruptBatch {
  readonly #target: InterruptTarget;
  readonly #clockUs: () => number;
  readonly #counts = new Int32Array(MAX_VECTORS);
  /** Bitmap of the vectors with a count. */
  #vectors = 0;
  #pending = 0;
  #sinceUs = 0;

  constructor(target: InterruptTarget, clockUs: () => number) {
    this.#target = target;
    this.#clockUs = clockUs;
  }

  add(vector: number): void {
    const slot = vector & (MAX_VECTORS - 1);
    if (this.#pending++ === 0) this.#sinceUs = this.#clockUs();
    this.#counts[slot]!++;
    this.#vectors |= 1 << slot;
  }

  /** True if the batch must not wait for more. */
  get isDue(): boolean {
    return this.#pending >= BATCH_LIMIT || (this.#pending > 0 && this.#clockUs() - this.#sinceUs >= HOLD_US);
  }

  /** Delivers what is pending. */
  deliver(): void {
    if (this.#pending === 0) return;
    for (let vectors = this.#vectors; vectors !== 0; vectors &= vectors - 1) {
      const vector = 31 - Math.clz32(vectors & -vectors);
      this.#target.countInterrupts(vector, this.#counts[vector] as number);
      this.#counts[vector] = 0;
    }
    this.#vectors = 0;
    this.#pending = 0;
    this.#target.wakeGuest();
  }
}
