/**
 * Classic programs of the SCTBench collection on shared words: queues, stacks, flags, barriers, lazily made objects.
 */
import {
  add,
  cas,
  ensure,
  explore,
  ld,
  peek,
  rd,
  type SharedWords,
  st,
  waitEq,
  wake,
  wordsOf,
  wr,
  xchg,
} from '../../../src/explore/sdk.ts';
import { lock, unlock } from './locks.ts';

const words = (): SharedWords => wordsOf(new SharedArrayBuffer(512));
const WAIT_MS = 1000;
const [HEAD, TAIL, MUTEX, DONE] = [0, 1, 2, 3];
const ITEMS = 32;

/** queue: two producers that choose a slot by a load and a store, or by one addition. */
const producers = (atomic: boolean) =>
  explore({
    setup: words,
    threads: Object.fromEntries(
      [1, 2].map((item) => [
        `producer${item}`,
        (w: SharedWords) => {
          for (let i = 0; i < 2; i++) {
            let slot: number;
            if (atomic) slot = add(w, TAIL, 1, 'queue.claim');
            else {
              slot = ld(w, TAIL, 'queue.look');
              st(w, TAIL, slot + 1, 'queue.claim');
            }
            st(w, ITEMS + slot, 10 * item + i, 'queue.put');
          }
        },
      ]),
    ),
    check: (w) => {
      const found = Array.from({ length: 4 }, (_, i) => peek(w, ITEMS + i)).sort((a, b) => a - b);
      ensure(found.join() === '10,11,20,21', 'every item', () => `the queue has ${found.join(', ')}`);
    },
  });
export const queueBad = producers(false);
export const queueGood = producers(true);

/** stack: a pop that reads the top, its successor and then replaces the top: another thread recycles it (ABA). */
const stack = (counted: boolean) =>
  explore({
    setup: () => {
      const w = words();
      // Nodes 1 to 3; the successor of node n is at ITEMS + n. The top has a count in its upper half.
      for (let node = 1; node <= 3; node++) st(w, ITEMS + node, node - 1, 'stack.init');
      st(w, HEAD, 3, 'stack.init');
      return w;
    },
    threads: {
      popper: (w) => pop(w, counted),
      recycler: (w) => {
        const first = pop(w, counted);
        const second = pop(w, counted);
        if (first > 0) push(w, first, counted);
        return second;
      },
    },
    check: (w, { popper, recycler }) => {
      const left: number[] = [];
      for (let node = peek(w, HEAD) & 0xff; node !== 0 && left.length < 5; node = peek(w, ITEMS + node))
        left.push(node);
      const all = [popper as number, recycler as number, ...left].filter((node) => node > 0);
      ensure(
        new Set(all).size === all.length,
        'every item',
        () => `nodes ${all.join(', ')}: one is there twice`,
      );
    },
  });
function pop(w: SharedWords, counted: boolean): number {
  for (;;) {
    const top = ld(w, HEAD, 'pop.top');
    const node = top & 0xff;
    if (node === 0) return 0;
    const next = ld(w, ITEMS + node, 'pop.next');
    const replaced = counted ? ((top + 0x100) & ~0xff) | next : next;
    if (cas(w, HEAD, top, replaced, 'pop.swap') === top) return node;
  }
}
function push(w: SharedWords, node: number, counted: boolean): void {
  for (;;) {
    const top = ld(w, HEAD, 'push.top');
    st(w, ITEMS + node, top & 0xff, 'push.next');
    if (cas(w, HEAD, top, counted ? ((top + 0x100) & ~0xff) | node : node, 'push.swap') === top) return;
  }
}
export const stackAba = stack(false);
export const stackCounted = stack(true);

/** Dekker's and Peterson's mutual exclusion: right with ordered flags, wrong if a plain flag may be read late. */
const peterson = (plain: boolean, turnFirst: boolean) =>
  explore({
    setup: words,
    threads: Object.fromEntries(
      [0, 1].map((me) => [
        `thread${me}`,
        (w: SharedWords) => {
          const other = 1 - me;
          const flag = (): void => (plain ? wr(w, 4 + me, 1, 'flag') : st(w, 4 + me, 1, 'flag'));
          if (turnFirst) st(w, 6, other, 'turn');
          flag();
          if (!turnFirst) st(w, 6, other, 'turn');
          const busy = (): boolean =>
            (plain ? rd(w, 4 + other, 'other') : ld(w, 4 + other, 'other')) === 1 &&
            ld(w, 6, 'turn') === other;
          for (let spins = 0; busy(); spins++) if (spins > 3) return;
          const inside = add(w, 7, 1, 'enter');
          ensure(inside === 0, 'exclusion', 'both threads are inside');
          add(w, 7, -1, 'leave');
          st(w, 4 + me, 0, 'flag');
        },
      ]),
    ),
  });
export const petersonGood = peterson(false, false);
export const petersonTurnFirst = peterson(false, true);
/** Dekker's two flags with plain loads: both threads may read the other's flag late. */
const dekker = (plain: boolean) =>
  explore({
    setup: words,
    threads: Object.fromEntries(
      [0, 1].map((me) => [
        `thread${me}`,
        (w: SharedWords) => {
          if (plain) wr(w, 4 + me, 1, 'flag');
          else st(w, 4 + me, 1, 'flag');
          const other = plain ? rd(w, 5 - me, 'other') : ld(w, 5 - me, 'other');
          if (other !== 0) return;
          const inside = add(w, 7, 1, 'enter');
          ensure(inside === 0, 'exclusion', 'both threads are inside');
        },
      ]),
    ),
  });
export const dekkerPlain = dekker(true);
export const dekkerOrdered = dekker(false);

/** A lazily made object: published before it is filled, or made twice. */
const lazy = (once: boolean, filledFirst: boolean) =>
  explore({
    setup: words,
    threads: Object.fromEntries(
      ['one', 'two', 'three'].map((name) => [
        name,
        (w: SharedWords) => {
          if (ld(w, HEAD, 'lazy.look') === 0) {
            if (once) lock(w, MUTEX);
            if (!once || ld(w, HEAD, 'lazy.again') === 0) {
              add(w, TAIL, 1, 'lazy.make');
              if (filledFirst) st(w, ITEMS, 7, 'lazy.fill');
              st(w, HEAD, 1, 'lazy.publish');
              if (!filledFirst) st(w, ITEMS, 7, 'lazy.fill');
            }
            if (once) unlock(w, MUTEX);
          }
          const content = ld(w, ITEMS, 'lazy.use');
          ensure(content === 7, 'whole object', () => `an object with content ${content}`);
        },
      ]),
    ),
    check: (w) => ensure(peek(w, TAIL) === 1, 'made once', () => `made ${peek(w, TAIL)} times`),
  });
export const lazyTwice = lazy(false, true);
export const lazyUnfilled = lazy(true, false);
export const lazyGood = lazy(true, true);

/** bounded buffer with one bell for producers and consumers: the wake-up test is an `if`, or a `while`. */
const buffer = (loops: boolean) =>
  explore({
    setup: words,
    threads: Object.fromEntries([
      ...['consumer0', 'consumer1'].map((name) => [
        name,
        (w: SharedWords) => {
          lock(w, MUTEX);
          for (;;) {
            if (ld(w, HEAD, 'buffer.count') > 0) break;
            const bell = ld(w, DONE, 'buffer.bell');
            unlock(w, MUTEX);
            waitEq(w, DONE, bell, WAIT_MS, 'buffer.wait');
            lock(w, MUTEX);
            if (!loops) break;
          }
          const count = ld(w, HEAD, 'buffer.take');
          ensure(count > 0, 'items', 'an item is taken from an empty buffer');
          st(w, HEAD, count - 1, 'buffer.taken');
          unlock(w, MUTEX);
        },
      ]),
      [
        'producer',
        (w: SharedWords) => {
          for (let i = 0; i < 2; i++) {
            lock(w, MUTEX);
            st(w, HEAD, ld(w, HEAD, 'buffer.count') + 1, 'buffer.put');
            add(w, DONE, 1, 'buffer.bell');
            wake(w, DONE, 'buffer.wake');
            unlock(w, MUTEX);
          }
        },
      ],
    ]),
  });
export const bufferIf = buffer(false);
export const bufferWhile = buffer(true);

/** A barrier that is used twice: a fast thread enters the second phase before a slow one has left the first. */
const barrier = (sense: boolean) =>
  explore({
    setup: words,
    threads: Object.fromEntries(
      [0, 1].map((me) => [
        `thread${me}`,
        (w: SharedWords) => {
          for (let phase = 1; phase <= 2; phase++) {
            add(w, ITEMS + me, 1, 'barrier.work');
            meet(w, sense);
            const other = ld(w, ITEMS + 1 - me, 'barrier.other');
            ensure(
              other >= phase,
              'barrier',
              () => `phase ${phase} begins while the other thread is at ${other}`,
            );
          }
        },
      ]),
    ),
  });
function meet(w: SharedWords, sense: boolean): void {
  const round = ld(w, DONE, 'barrier.round');
  if (add(w, HEAD, 1, 'barrier.arrive') === 1) {
    if (sense) {
      st(w, HEAD, 0, 'barrier.reset');
      add(w, DONE, 1, 'barrier.open');
    } else {
      add(w, DONE, 1, 'barrier.open');
      wake(w, DONE, 'barrier.wake');
      st(w, HEAD, 0, 'barrier.reset');
      return;
    }
    wake(w, DONE, 'barrier.wake');
  } else while (ld(w, DONE, 'barrier.round') === round) waitEq(w, DONE, round, WAIT_MS, 'barrier.wait');
}
export const barrierEarlyOpen = barrier(false);
export const barrierGood = barrier(true);

/** A reference count: the last user frees, and a new one revives the object by a plain check. */
const counted = (checked: boolean) =>
  explore({
    setup: () => {
      const w = words();
      st(w, HEAD, 1, 'count');
      return w;
    },
    threads: {
      owner: (w) => {
        if (add(w, HEAD, -1, 'count.drop') === 1) st(w, DONE, 1, 'free');
      },
      user: (w) => {
        if (checked) {
          for (let seen = ld(w, HEAD, 'count.look'); ; ) {
            if (seen === 0) return;
            const found = cas(w, HEAD, seen, seen + 1, 'count.take');
            if (found === seen) break;
            seen = found;
          }
        } else {
          if (ld(w, HEAD, 'count.look') === 0) return;
          add(w, HEAD, 1, 'count.take');
        }
        ensure(ld(w, DONE, 'use') === 0, 'use after free', 'a freed object is used');
        if (add(w, HEAD, -1, 'count.drop') === 1) st(w, DONE, 1, 'free');
      },
    },
  });
export const countRevives = counted(false);
export const countGood = counted(true);

/** stateful: a token that is passed between threads by a flag that the receiver resets too late. */
const tokens = (resets: boolean) =>
  explore({
    setup: words,
    threads: {
      giver: (w) => {
        for (let i = 1; i <= 2; i++) {
          st(w, ITEMS, i, 'token.value');
          while (ld(w, HEAD, 'token.flag') === 1) waitEq(w, HEAD, 1, WAIT_MS, 'token.wait');
          if (resets) st(w, ITEMS, i, 'token.value');
          st(w, TAIL, ld(w, ITEMS, 'token.load'), 'token.pass');
          st(w, HEAD, 1, 'token.flag');
          wake(w, HEAD, 'token.wake');
        }
      },
      taker: (w) => {
        for (let i = 1; i <= 2; i++) {
          while (ld(w, HEAD, 'token.flag') === 0) waitEq(w, HEAD, 0, WAIT_MS, 'token.wait');
          if (!resets) {
            xchg(w, HEAD, 0, 'token.flag');
            wake(w, HEAD, 'token.wake');
          }
          const value = ld(w, TAIL, 'token.take');
          ensure(value === i, 'FIFO', () => `token ${value} instead of ${i}`);
          if (resets) {
            xchg(w, HEAD, 0, 'token.flag');
            wake(w, HEAD, 'token.wake');
          }
        }
      },
    },
  });
export const tokenEarlyReset = tokens(false);
export const tokenGood = tokens(true);
