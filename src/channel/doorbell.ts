/**
 * One word to wait on for many senders: a sequence that every ring bumps, and a bitmap that says who rang.
 *
 * A waiter per sender does not scale to a thousand devices. Ordering argument: a sender writes its ring, sets its
 * bit, then bumps the sequence; the waiter reads the sequence, then takes the bits, and sleeps only while the
 * sequence is still the one it read. A bit set after the take therefore finds a changed sequence or a sleeper.
 */
import * as mem from '#mem';

const { ld, or, xchg, add, wake, waitEq, waitEqAsync, wordsOf } = mem;

const WORD_SEQUENCE = 0;
const WORD_PENDING = 1;

export const doorbellWords = (senders: number): number => WORD_PENDING + Math.ceil(senders / 32);

export class Doorbell {
  readonly #words: mem.SharedWords;
  readonly #pendingWords: number;

  /** `byteOffset` and `senders` must be the same at both ends. */
  constructor(sab: SharedArrayBuffer, byteOffset: number, senders: number) {
    this.#words = wordsOf(sab, byteOffset, doorbellWords(senders));
    this.#pendingWords = Math.ceil(senders / 32);
  }

  ring(sender: number): void {
    or(this.#words, WORD_PENDING + (sender >>> 5), 1 << (sender & 31), 'doorbell.pending');
    add(this.#words, WORD_SEQUENCE, 1, 'doorbell.sequence');
    wake(this.#words, WORD_SEQUENCE, 'doorbell.wait');
  }

  /** To be read before {@link take}, and passed to wait. */
  get sequence(): number {
    return ld(this.#words, WORD_SEQUENCE, 'doorbell.sequence');
  }

  /** Takes the bits of all who rang, and visits them. Returns their number. */
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

  /** Blocks until somebody rings after `sequence` was read, at most `timeoutMs`. */
  wait(sequence: number, timeoutMs: number): void {
    waitEq(this.#words, WORD_SEQUENCE, sequence, timeoutMs, 'doorbell.wait');
  }

  waitAsync(sequence: number, timeoutMs: number): Promise<boolean> | undefined {
    return waitEqAsync(this.#words, WORD_SEQUENCE, sequence, timeoutMs, 'doorbell.wait');
  }
}
