/**
 * The pin-table kernels in WebAssembly: the steps of protocol.ts and pin-counts.ts, with an atomic operation as one
 * instruction instead of a call.
 *
 * This file belongs to `#mem`: only it and platform/shared-memory.ts access shared words. Its steps, by their sites:
 * - `enter`: dma.enter.publish, dma.enter.confirm.
 * - `exit`: dma.exit.publish, dma.exit.waiting, dma.exit.wake.
 * - `pin`: enter, walk.root, walk.mid, pin.inc (pin.undo, pin.undo.wake), walk.mid, walk.leaf, pin.inc (…),
 *   walk.frame, unpin.dec and unpin.wake where it must undo, exit.
 * - `unpin`: enter, walk.root, walk.mid, walk.leaf, unpin.dec, unpin.wake, unpin.dec, unpin.wake, exit.
 *
 * WebAssembly's atomics are sequentially consistent and its plain loads are unordered, as JavaScript's are. So the
 * arguments in protocol.ts and pin-counts.ts hold without change.
 */

import {
  NODE_ENTRIES,
  OUTSIDE,
  PERM_MASK,
  PFN_SHIFT,
  PIN_LIMIT,
  PIN_ONE,
  PIN_VALID,
  ROOT_ENTRIES,
  WORD_GENERATION,
  WORD_ROOT,
  WORD_WRITER_WAITING,
} from '../layout.ts';
import { PIN_DENIED, PIN_UNMAPPED } from '../pin-counts.ts';
import {
  ADD,
  AND,
  assemble,
  atomicAdd,
  atomicLoad,
  atomicNotify,
  atomicStore,
  block,
  br,
  brIf,
  type Code,
  call,
  DROP,
  EQ,
  EQZ,
  type Func,
  GE,
  get,
  i32,
  LT,
  load,
  loop,
  NE,
  SHL,
  SHR_U,
  set,
  tee,
  when,
} from './assembler.ts';

/** Largest memory that a module can import: 2^16 pages of 64 KiB. */
const MAX_PAGES = 2 ** 16;
/** Bytes from an entry's frame word to its pin word, in the root and in a node. */
const ROOT_PIN = ROOT_ENTRIES * 4;
const NODE_PIN = NODE_ENTRIES * 4;
const ALL_WAITERS = -1;

const wake = (address: Code, offset: number): Code =>
  [address, i32(ALL_WAITERS), atomicNotify(offset), DROP].flat();

/** dmaEnter: publishes the generation it last read as its epoch, until a confirming load returns the same one. */
const enter = (epoch: number, seen: number, now: number): Code =>
  loop(
    get(epoch),
    get(seen),
    atomicStore(),
    i32(0),
    atomicLoad(WORD_GENERATION * 4),
    tee(now),
    get(seen),
    get(now),
    set(seen),
    NE,
    brIf(0),
  );

const exit = (epoch: number): Code =>
  [
    get(epoch),
    i32(OUTSIDE),
    atomicStore(),
    i32(0),
    atomicLoad(WORD_WRITER_WAITING * 4),
    when(wake(get(epoch), 0)),
  ].flat();

/** pinRelease: drops a pin; wakes the writer if that leaves an invalid entry at 0. `pin` is the pin word's address. */
const release = (pin: number): Code =>
  [get(pin), i32(-PIN_ONE), atomicAdd(0), i32(PIN_ONE), EQ, when(wake(get(pin), 0))].flat();

/** pinAcquire: if the entry is invalid or full, undoes its pin and leaves the block `depth` levels out. */
const acquire = (pin: number, before: number, depth: number): Code =>
  block(
    block(
      get(pin),
      i32(PIN_ONE),
      atomicAdd(0),
      tee(before),
      i32(PIN_VALID),
      AND,
      EQZ,
      brIf(0),
      get(before),
      i32(PIN_LIMIT * PIN_ONE),
      LT,
      brIf(1),
    ),
    release(pin),
    br(depth + 1),
  );

const GIB = 0;
const LOW = 1;

/** Pushes the address of entry `(low >>> shift) & 511` of the node whose word index is in `word`. */
const child = (word: number, shift: number): Code =>
  [...[get(word), i32(2), SHL], ...[get(LOW), i32(shift), SHR_U, i32(511), AND, i32(2), SHL], ADD].flat();

const rootEntry: Code = [get(GIB), i32(2), SHL, i32(WORD_ROOT * 4), ADD].flat();
/** Sets `pin` to the address of the pin word of the entry at `entry`. */
const pinOf = (entry: number, bytes: number, pin: number): Code =>
  [get(entry), i32(bytes), ADD, set(pin)].flat();
const isLeaf = (word: number): Code => [get(word), i32(PERM_MASK), AND].flat();

/** pin(gib, low, perm, epoch) → host PFN, PIN_UNMAPPED or PIN_DENIED. `epoch` is the slot's byte address. */
function pinBody(): Code {
  const [PERM, EPOCH, SEEN, WORD, ENTRY, PIN, LINK, PAGE, RESULT] = [2, 3, 4, 5, 6, 7, 8, 9, 10];
  return [
    ...[i32(0), load(WORD_GENERATION * 4), set(SEEN), enter(EPOCH, SEEN, WORD)],
    ...[i32(PIN_UNMAPPED), set(RESULT)],
    block(
      // Walk to the leaf's ENTRY and its PIN word. LINK is the pin word of a leaf table's link; it takes the first pin.
      block(
        ...[rootEntry, tee(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        pinOf(ENTRY, ROOT_PIN, PIN),
        ...[get(LOW), i32(12), SHR_U, i32(2 ** 18 - 1), AND, set(PAGE)],
        ...[isLeaf(WORD), brIf(0)],
        ...[child(WORD, 21), tee(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        pinOf(ENTRY, NODE_PIN, PIN),
        ...[get(PAGE), i32(511), AND, set(PAGE)],
        ...[isLeaf(WORD), brIf(0)],
        acquire(PIN, WORD, 1),
        ...[get(PIN), set(LINK), get(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        ...[isLeaf(WORD), brIf(1)],
        ...[child(WORD, 12), set(ENTRY), i32(0), set(PAGE)],
        pinOf(ENTRY, NODE_PIN, PIN),
      ),
      ...[get(ENTRY), load(), i32(PERM_MASK), AND, EQZ, brIf(0)],
      acquire(PIN, WORD, 0),
      block(
        ...[get(ENTRY), load(), tee(WORD), i32(PERM_MASK), AND, EQZ, brIf(0)],
        ...[i32(PIN_DENIED), set(RESULT)],
        ...[get(WORD), get(PERM), AND, get(PERM), NE, brIf(0)],
        ...[get(WORD), i32(PFN_SHIFT), SHR_U, get(PAGE), ADD, set(RESULT), br(1)],
      ),
      release(PIN),
    ),
    ...[get(LINK), when(get(RESULT), i32(0), LT, when(release(LINK)))],
    exit(EPOCH),
    get(RESULT),
  ].flat();
}

/** unpin(gib, low, epoch) → 1, or 0 if nothing is mapped there. */
function unpinBody(): Code {
  const [EPOCH, SEEN, WORD, ENTRY, PIN, LINK, RESULT] = [2, 3, 4, 5, 6, 7, 8];
  return [
    ...[i32(0), load(WORD_GENERATION * 4), set(SEEN), enter(EPOCH, SEEN, WORD)],
    block(
      block(
        ...[rootEntry, tee(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        pinOf(ENTRY, ROOT_PIN, PIN),
        ...[isLeaf(WORD), brIf(0)],
        ...[child(WORD, 21), tee(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        pinOf(ENTRY, NODE_PIN, PIN),
        ...[isLeaf(WORD), brIf(0)],
        ...[get(PIN), set(LINK)],
        ...[child(WORD, 12), tee(ENTRY), load(), i32(PERM_MASK), AND, EQZ, brIf(1)],
        pinOf(ENTRY, NODE_PIN, PIN),
      ),
      // The leaf first: the link's count must never be below the sum of the leaves' counts.
      release(PIN),
      ...[get(LINK), when(release(LINK))],
      ...[i32(1), set(RESULT)],
    ),
    exit(EPOCH),
    get(RESULT),
  ].flat();
}

/** Indices of the functions that others call. */
const PIN_FUNCTION = 0;
const UNPIN_FUNCTION = 1;

/**
 * pinRun(gib, low, count, perm, epoch), unpinRun(gib, low, count, epoch) → count of pages done before the first that
 * failed. Each page has its own section, so an unmap waits for one page and not for the run. The run stays in its GiB.
 */
function runBody(operation: Code, DONE: number): Code {
  const COUNT = 2;
  return [
    block(
      loop(
        ...[get(DONE), get(COUNT), GE, brIf(1)],
        ...[get(GIB), get(LOW), get(DONE), i32(12), SHL, ADD, operation, brIf(1)],
        ...[get(DONE), i32(1), ADD, set(DONE), br(0)],
      ),
    ),
    get(DONE),
  ].flat();
}

const FUNCTIONS: readonly Func[] = [
  { name: 'pin', params: 4, locals: 7, results: 1, body: pinBody() },
  { name: 'unpin', params: 3, locals: 6, results: 1, body: unpinBody() },
  {
    name: 'enter',
    params: 2,
    locals: 1,
    results: 1,
    body: [enter(0, 1, 2), get(1)].flat(),
  },
  { name: 'exit', params: 1, locals: 0, results: 0, body: exit(0) },
  {
    name: 'pinRun',
    params: 5,
    locals: 1,
    results: 1,
    body: runBody([get(3), get(4), call(PIN_FUNCTION), i32(0), LT].flat(), 5),
  },
  {
    name: 'unpinRun',
    params: 4,
    locals: 1,
    results: 1,
    body: runBody([get(3), call(UNPIN_FUNCTION), EQZ].flat(), 4),
  },
];

/** Returns the module's bytes; the same on every machine. */
export const kernelBytes = (): Uint8Array<ArrayBuffer> => assemble(FUNCTIONS, MAX_PAGES);
