/**
 * Classic programs of the SCTBench collection on shared words: counters, accounts, locks that are taken in two orders.
 */
import {
  add,
  cas,
  ensure,
  explore,
  ld,
  peek,
  type SharedWords,
  st,
  waitEq,
  wake,
  wordsOf,
} from '../../../src/explore/sdk.ts';

const words = (): SharedWords => wordsOf(new SharedArrayBuffer(256));
/** Limit of a wait; the model ends none by it. */
const WAIT_MS = 1000;

/** Locks a mutex: 0 free, 1 held, 2 held with a thread that may sleep. */
export function lock(w: SharedWords, mutex: number): void {
  if (cas(w, mutex, 0, 1, 'lock.try') === 0) return;
  while (cas(w, mutex, 0, 2, 'lock.again') !== 0) {
    if (ld(w, mutex, 'lock.look') === 1) cas(w, mutex, 1, 2, 'lock.mark');
    waitEq(w, mutex, 2, WAIT_MS, 'lock.wait');
  }
}

export function unlock(w: SharedWords, mutex: number): void {
  const before = ld(w, mutex, 'unlock.look');
  st(w, mutex, 0, 'unlock');
  if (before !== 0) wake(w, mutex, 'unlock.wake');
}

const [A, B, M, N] = [8, 9, 16, 17];

const increment = (w: SharedWords): void => st(w, A, ld(w, A, 'count.load') + 1, 'count.store');
const total = (w: SharedWords, wanted: number): void =>
  ensure(peek(w, A) === wanted, 'counter', () => `${peek(w, A)} instead of ${wanted}`);

/** lazy01, wronglock: a counter that is changed under a lock, under another lock, or under none. */
export const counter = explore({
  setup: words,
  threads: { one: increment, two: increment, three: increment },
  check: (w) => total(w, 3),
});
export const counterLocked = explore({
  ...counter,
  threads: Object.fromEntries(
    ['one', 'two', 'three'].map((name) => [
      name,
      (w: SharedWords) => {
        lock(w, M);
        increment(w);
        unlock(w, M);
      },
    ]),
  ),
});

const under = (mutex: number, action: (w: SharedWords) => void) => (w: SharedWords) => {
  lock(w, mutex);
  action(w);
  unlock(w, mutex);
};
export const wrongLock = explore({
  setup: words,
  threads: { one: under(M, increment), two: under(N, increment), three: under(M, increment) },
  check: (w) => total(w, 3),
});

/** twostage: a value in one critical section, its flag in another. */
const stages = (together: boolean) =>
  explore({
    setup: words,
    threads: {
      first: (w) => {
        lock(w, M);
        st(w, A, 1, 'stage.one');
        if (!together) {
          unlock(w, M);
          lock(w, M);
        }
        st(w, B, ld(w, A, 'stage.load') + 1, 'stage.two');
        unlock(w, M);
      },
      second: (w) => {
        lock(w, M);
        const [a, b] = [ld(w, A, 'read.one'), ld(w, B, 'read.two')];
        unlock(w, M);
        ensure(a === 0 || b === a + 1, 'two stages', () => `stage 1 is ${a}, stage 2 is ${b}`);
      },
    },
  });
export const twoStage = stages(false);
export const twoStageTogether = stages(true);

/** account: deposits and withdrawals that read the balance outside of the lock. */
const account = (inside: boolean) =>
  explore({
    setup: () => {
      const w = words();
      st(w, A, 10, 'balance');
      return w;
    },
    threads: Object.fromEntries(
      [5, -3].map((amount) => [
        amount > 0 ? 'deposit' : 'withdraw',
        (w: SharedWords) => {
          if (inside) lock(w, M);
          const balance = ld(w, A, 'balance.load');
          if (!inside) lock(w, M);
          st(w, A, balance + amount, 'balance.store');
          unlock(w, M);
        },
      ]),
    ),
    check: (w) => total(w, 12),
  });
export const accountBad = account(false);
export const accountGood = account(true);

const both = (first: number, second: number) => (w: SharedWords) => {
  lock(w, first);
  lock(w, second);
  add(w, A, 1, 'work');
  unlock(w, second);
  unlock(w, first);
};
/** deadlock01: two locks in two orders. */
export const lockOrder = explore({ setup: words, threads: { one: both(M, N), two: both(N, M) } });
export const lockOrderSame = explore({ setup: words, threads: { one: both(M, N), two: both(M, N) } });

/** phase01, philosophers: each takes the left fork first. */
const philosophers = (count: number, ordered: boolean) =>
  explore({
    setup: words,
    threads: Object.fromEntries(
      Array.from({ length: count }, (_, seat) => {
        const [left, right] = [M + seat, M + ((seat + 1) % count)];
        return [`seat${seat}`, ordered && right < left ? both(right, left) : both(left, right)];
      }),
    ),
  });
export const philosophersLeft = philosophers(3, false);
export const philosophersOrdered = philosophers(3, true);

/** A mutex whose unlock wakes only if it saw a sleeper before it freed the word: the mark of state 2 is forgotten. */
export const mutexForgets = explore({
  setup: words,
  threads: Object.fromEntries(
    ['one', 'two', 'three'].map((name) => [
      name,
      (w: SharedWords) => {
        if (cas(w, M, 0, 1, 'lock.try') !== 0)
          while (cas(w, M, 0, 1, 'lock.again') !== 0) {
            cas(w, M, 1, 2, 'lock.mark');
            waitEq(w, M, 2, WAIT_MS, 'lock.wait');
          }
        increment(w);
        const before = ld(w, M, 'unlock.look');
        st(w, M, 0, 'unlock');
        if (before === 2) wake(w, M, 'unlock.wake');
      },
    ]),
  ),
  check: (w) => total(w, 3),
});

/** reorder: a reader sees the second of two writes without the first. */
const reorder = (writers: number, ordered: boolean) =>
  explore({
    setup: words,
    threads: {
      ...Object.fromEntries(
        Array.from({ length: writers }, (_, i) => [
          `writer${i}`,
          (w: SharedWords) => {
            if (ordered) lock(w, M);
            st(w, A, 1, 'first');
            st(w, B, -1, 'second');
            if (ordered) unlock(w, M);
          },
        ]),
      ),
      checker: (w) => {
        if (ordered) lock(w, M);
        const [a, b] = [ld(w, A, 'check.first'), ld(w, B, 'check.second')];
        if (ordered) unlock(w, M);
        ensure(
          (a === 0 && b === 0) || (a === 1 && b === -1),
          'both or none',
          () => `first ${a}, second ${b}`,
        );
      },
    },
  });
export const reorder3 = reorder(3, false);
export const reorder3Locked = reorder(3, true);
export const reorder5 = reorder(5, false);
export const reorder5Locked = reorder(5, true);

/** carter01: the first reader locks for all and unlocks when it leaves, although the others still read. */
const reader = (exclusive: boolean) => (w: SharedWords) => {
  const first = add(w, A, 1, 'readers') === 0;
  if (first || exclusive) lock(w, M);
  add(w, B, 1, 'work');
  add(w, A, -1, 'leave');
  if (first || exclusive) unlock(w, M);
};
const carter = (exclusive: boolean) =>
  explore({
    setup: words,
    threads: {
      one: reader(exclusive),
      two: reader(exclusive),
      writer: (w) => {
        lock(w, M);
        const work = ld(w, B, 'write.look');
        st(w, 10, work, 'write');
        ensure(ld(w, B, 'write.again') === work, 'exclusion', 'a reader works beside the writer');
        unlock(w, M);
      },
    },
  });
export const carterBad = carter(false);
export const carterGood = carter(true);

/** Two locks in one order, with one reader that sleeps on a condition without releasing the outer lock. */
const nested = (releases: boolean) =>
  explore({
    setup: words,
    threads: {
      consumer: (w) => {
        lock(w, N);
        if (releases) unlock(w, N);
        if (ld(w, A, 'item') === 0) waitEq(w, A, 0, WAIT_MS, 'item.wait');
        if (!releases) unlock(w, N);
      },
      producer: (w) => {
        lock(w, N);
        st(w, A, 1, 'item');
        wake(w, A, 'item.wake');
        unlock(w, N);
      },
    },
  });
export const nestedWait = nested(false);
export const nestedWaitReleases = nested(true);
