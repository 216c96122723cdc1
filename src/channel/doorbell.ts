/**
 * Doorbell: one word on which a thread waits for many senders, and a bitmap of the senders that rang it. A waiter
 * for each sender does not scale to a thousand devices.
 *
 * No ring is lost:
 *
 * 1. A sender writes to its own channel, sets its bit, then increments the sequence.
 * 2. The waiter reads the sequence, then takes the bits, then sleeps while the sequence equals the value that it
 *    read.
 * 3. A sender that sets its bit after the take increments the sequence after the waiter read it. Either the waiter
 *    finds a changed sequence and does not sleep, or it sleeps already and the sender wakes it.
 */
import * as mem from '#mem';

const { ld, or, xchg, add, wake, waitEq, waitEqAsync, wordsOf } = mem;

const WORD_SEQUENCE = 0;
const WORD_PENDING = 1;

export const doorbellWords = (senders: number): number => WORD_PENDING + Math.ceil(senders / 32);

export class Doorbell {
  readonly #words: mem.SharedWords;
  readonly #pendingWords: number;

  /** `byteOffset` and `senders` must be equal at both ends. */
  constructor(sab: SharedArrayBuffer, byteOffset: number, senders: number) {
    this.#words = wordsOf(sab, byteOffset, doorbellWords(senders));
    this.#pendingWords = Math.ceil(senders / 32);
  }

  ring(sender: number): void {
    or(this.#words, WORD_PENDING + (sender >>> 5), 1 << (sender & 31), 'doorbell.pending');
    add(this.#words, WORD_SEQUENCE, 1, 'doorbell.sequence');
    wake(this.#words, WORD_SEQUENCE, 'doorbell.wait');
  }

  /** Sequence to pass to wait. Read it before {@link take}. */
  get sequence(): number {
    return ld(this.#words, WORD_SEQUENCE, 'doorbell.sequence');
  }

  /** Takes the bits of all senders that rang and visits them. Returns their count. */
  take(visit: (sender: number) => void): number {
    let rang = 0;
    for (let word = 0; word < this.#pendingWords; word++) {
      if (ld(this.#words, WORD_PENDING + word, 'doorbell.pending') === 0) continue;
      let bits = xchg(this.#words, WORD_PENDING + word, 0, 'doorbell.pending');
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits & -bits);
        bits &= bits - 1;
        visit(word * 32 + bit);
        rang++;
      }
    }
    return rang;
  }

  /** Blocks until a sender rings after `sequence` was read, at most `timeoutMs`. */
  wait(sequence: number, timeoutMs: number): void {
    waitEq(this.#words, WORD_SEQUENCE, sequence, timeoutMs, 'doorbell.wait');
  }

  /** Waits like {@link wait} without blocking. Returns undefined if a sender rang already. */
  waitAsync(sequence: number, timeoutMs: number): Promise<boolean> | undefined {
    return waitEqAsync(this.#words, WORD_SEQUENCE, sequence, timeoutMs, 'doorbell.wait');
  }
}
