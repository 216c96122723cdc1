/**
 * The code of a baseline worker: reports its start and waits for the end. A vGPU's memory and start-up time are compared
 * with it, so it imports nothing else.
 */
import * as mem from '#mem';

const { st, ld, add, wake, waitEq, wordsOf } = mem;

const WORD_STARTED = 0;
const WORD_END = 1;
const WAIT_LIMIT_MS = 120_000;

export const BASELINE_WORDS_BYTES = 8;

export function baselineWorkerBody(sab: SharedArrayBuffer): void {
  const words = wordsOf(sab);
  add(words, WORD_STARTED, 1, 'link.word');
  waitEq(words, WORD_END, 0, WAIT_LIMIT_MS, 'link.wait');
}

/** Returns the count of baseline workers that have started. */
export const baselineStarted = (sab: SharedArrayBuffer): number =>
  ld(wordsOf(sab), WORD_STARTED, 'link.word');

export function endBaselineWorkers(sab: SharedArrayBuffer): void {
  const words = wordsOf(sab);
  st(words, WORD_END, 1, 'link.word');
  wake(words, WORD_END, 'link.wait');
}
