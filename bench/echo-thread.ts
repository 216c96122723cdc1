/**
 * Baseline of a doorbell: a thread that changes one shared word after each change of another.
 */
import { workerData } from 'node:worker_threads';
import * as mem from '#mem';

const { add, ld, wake, waitEq, wordsOf } = mem;

/** Words: asked, answered, stop. */
const words = wordsOf(workerData as SharedArrayBuffer);
let seen = 0;
while (ld(words, 2, 'link.word') === 0) {
  waitEq(words, 0, seen, 1000, 'link.wait');
  const asked = ld(words, 0, 'link.word');
  if (asked === seen) continue;
  seen = asked;
  add(words, 1, 1, 'link.word');
  wake(words, 1, 'link.wait');
}
