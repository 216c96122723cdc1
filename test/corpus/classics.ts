/**
 * Corpus: programs of SCTBench (Thomson and others, PPoPP 2014) that can be written on shared words, in words of our own.
 */
import type { CorpusEntry } from './entry.ts';

const LOCKS = 'test/corpus/programs/locks.ts';
const STRUCTURES = 'test/corpus/programs/structures.ts';

const entry = (
  id: string,
  [file, faulty, correct]: readonly [string, string, string],
  fault: string,
  rules: readonly string[],
  weak?: true,
): CorpusEntry => ({
  id: `classic/${id}`,
  harness: `${file}#${faulty}`,
  correct: `${file}#${correct}`,
  fault,
  rules,
  budget: 2000,
  ...(weak && { weak }),
});

export const CLASSICS: readonly CorpusEntry[] = [
  entry('counter', [LOCKS, 'counter', 'counterLocked'], 'Three increments without a lock.', ['counter']),
  entry('wrong-lock', [LOCKS, 'wrongLock', 'counterLocked'], 'A counter under two different locks.', [
    'counter',
  ]),
  entry(
    'two-stage',
    [LOCKS, 'twoStage', 'twoStageTogether'],
    'A value and its flag in two critical sections.',
    ['two stages'],
  ),
  entry('account', [LOCKS, 'accountBad', 'accountGood'], 'A balance is read before its lock is taken.', [
    'counter',
  ]),
  entry('lock-order', [LOCKS, 'lockOrder', 'lockOrderSame'], 'Two locks in two orders.', ['lost-wake']),
  entry(
    'philosophers',
    [LOCKS, 'philosophersLeft', 'philosophersOrdered'],
    'Each of three takes its left fork first.',
    ['lost-wake'],
  ),
  entry(
    'mutex-forgets',
    [LOCKS, 'mutexForgets', 'counterLocked'],
    'A mutex forgets that a second thread sleeps.',
    ['lost-wake'],
  ),
  entry('reorder-3', [LOCKS, 'reorder3', 'reorder3Locked'], 'One of two writes is visible, with 3 writers.', [
    'both or none',
  ]),
  entry('reorder-5', [LOCKS, 'reorder5', 'reorder5Locked'], 'One of two writes is visible, with 5 writers.', [
    'both or none',
  ]),
  entry(
    'carter',
    [LOCKS, 'carterBad', 'carterGood'],
    'The first reader releases the lock while others read.',
    ['exclusion', 'lost-wake'],
  ),
  entry(
    'nested-wait',
    [LOCKS, 'nestedWait', 'nestedWaitReleases'],
    'A thread sleeps with a lock that its waker needs.',
    ['lost-wake'],
  ),
  entry('queue', [STRUCTURES, 'queueBad', 'queueGood'], 'Two producers choose the same slot.', [
    'every item',
  ]),
  entry('stack-aba', [STRUCTURES, 'stackAba', 'stackCounted'], 'A recycled node looks like the old top.', [
    'every item',
  ]),
  entry(
    'peterson',
    [STRUCTURES, 'petersonTurnFirst', 'petersonGood'],
    'The turn is given before the flag is raised.',
    ['exclusion'],
  ),
  entry(
    'dekker-plain',
    [STRUCTURES, 'dekkerPlain', 'dekkerOrdered'],
    'Plain flags: both threads read the other one late.',
    ['exclusion'],
    true,
  ),
  entry('lazy-twice', [STRUCTURES, 'lazyTwice', 'lazyGood'], 'An object is made by two threads.', [
    'made once',
  ]),
  entry(
    'lazy-unfilled',
    [STRUCTURES, 'lazyUnfilled', 'lazyGood'],
    'An object is published before it is filled.',
    ['whole object'],
  ),
  entry('buffer-if', [STRUCTURES, 'bufferIf', 'bufferWhile'], 'A woken consumer does not check again.', [
    'items',
  ]),
  entry('barrier', [STRUCTURES, 'barrierEarlyOpen', 'barrierGood'], 'A barrier opens before it is reset.', [
    'lost-wake',
    'barrier',
  ]),
  entry(
    'reference-count',
    [STRUCTURES, 'countRevives', 'countGood'],
    'A count of 0 is revived after its check.',
    ['use after free'],
  ),
  entry(
    'token',
    [STRUCTURES, 'tokenEarlyReset', 'tokenGood'],
    'A receiver frees the slot before it has read the token.',
    ['FIFO', 'lost-wake'],
  ),
];
