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
 * - `pinRun`, `unpinRun`: the same for each page, with one enter and exit for up to SECTION_PAGES pages. A section may
 *   hold any count of walks, and no step of a pin waits.
 * - `lookupList`: walk.root, walk.mid, walk.leaf for each page, within a section of the caller.
 * - `fillLeaves`: map.frame, map.valid, into a node that is not linked yet.
 *
 * WebAssembly's atomics are sequentially consistent and its plain loads and stores are unordered, as JavaScript's are.
 * A vector's lanes are plain stores, too. So the arguments in protocol.ts and pin-counts.ts hold without change.
 */

import { PAGE_SIZE } from '../../memory/address.ts';
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
  addVector,
  assemble,
  atomicAdd,
  atomicLoad,
  atomicNotify,
  atomicStore,
  block,
  br,
  brIf,
  type Code,
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
  OR,
  SHL,
  SHR_U,
  set,
  splat,
  store,
  storeVector,
  tee,
  vector4,
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

/** Pushes the address of entry `(low >>> shift) & 511` of the node whose word index is in `word`. */
const child = (word: number, shift: number, low: number): Code =>
  [...[get(word), i32(2), SHL], ...[get(low), i32(shift), SHR_U, i32(511), AND, i32(2), SHL], ADD].flat();

/** Pushes the address of the root's entry for a GiB. */
const rootOf = (gib: number): Code => [get(gib), i32(2), SHL, i32(WORD_ROOT * 4), ADD].flat();
/** Sets `pin` to the address of the pin word of the entry at `entry`. */
const pinOf = (entry: number, bytes: number, pin: number): Code =>
  [get(entry), i32(bytes), ADD, set(pin)].flat();
const isLeaf = (word: number): Code => [get(word), i32(PERM_MASK), AND].flat();

/** Opens a section from the generation that the table has now. */
const open = (epoch: number, seen: number, now: number): Code =>
  [i32(0), load(WORD_GENERATION * 4), set(seen), enter(epoch, seen, now)].flat();

/** Locals with the IOVA of a page: its GiB, and the rest as the low 32 bits; and the first local that is free. */
interface PageLocals {
  readonly gib: number;
  readonly low: number;
  readonly free: number;
}
/** Count of locals that the code of a page uses, from the first free one on. */
const PAGE_LOCALS = 6;

/** Pins a page within a section, and pushes its host PFN, PIN_UNMAPPED or PIN_DENIED. */
function pinPage({ gib, low, free }: PageLocals, PERM: number): Code {
  const [WORD, ENTRY, PIN, LINK, PAGE, RESULT] = [free, free + 1, free + 2, free + 3, free + 4, free + 5];
  return [
    ...[i32(PIN_UNMAPPED), set(RESULT), i32(0), set(LINK)],
    block(
      // Walk to the leaf's ENTRY and its PIN word. LINK is the pin word of a leaf table's link; it takes the first pin.
      block(
        ...[rootOf(gib), tee(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        pinOf(ENTRY, ROOT_PIN, PIN),
        ...[get(low), i32(12), SHR_U, i32(2 ** 18 - 1), AND, set(PAGE)],
        ...[isLeaf(WORD), brIf(0)],
        ...[child(WORD, 21, low), tee(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        pinOf(ENTRY, NODE_PIN, PIN),
        ...[get(PAGE), i32(511), AND, set(PAGE)],
        ...[isLeaf(WORD), brIf(0)],
        acquire(PIN, WORD, 1),
        ...[get(PIN), set(LINK), get(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        ...[isLeaf(WORD), brIf(1)],
        ...[child(WORD, 12, low), set(ENTRY), i32(0), set(PAGE)],
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
    get(RESULT),
  ].flat();
}

/** Unpins a page within a section, and pushes 1, or 0 if nothing is mapped there. */
function unpinPage({ gib, low, free }: PageLocals): Code {
  const [WORD, ENTRY, PIN, LINK, RESULT] = [free, free + 1, free + 2, free + 3, free + 4];
  return [
    ...[i32(0), set(RESULT), i32(0), set(LINK)],
    block(
      block(
        ...[rootOf(gib), tee(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        pinOf(ENTRY, ROOT_PIN, PIN),
        ...[isLeaf(WORD), brIf(0)],
        ...[child(WORD, 21, low), tee(ENTRY), load(), tee(WORD), EQZ, brIf(1)],
        pinOf(ENTRY, NODE_PIN, PIN),
        ...[isLeaf(WORD), brIf(0)],
        ...[get(PIN), set(LINK)],
        ...[child(WORD, 12, low), tee(ENTRY), load(), i32(PERM_MASK), AND, EQZ, brIf(1)],
        pinOf(ENTRY, NODE_PIN, PIN),
      ),
      // The leaf first: the link's count must never be below the sum of the leaves' counts.
      release(PIN),
      ...[get(LINK), when(release(LINK))],
      ...[i32(1), set(RESULT)],
    ),
    get(RESULT),
  ].flat();
}

/** The parameters of `pin` and `unpin`: GiB and low bits of the IOVA; the others follow. */
const PAGE = { gib: 0, low: 1 };

/** Runs `operation` within a section and returns its result. `epoch` is the byte address of the reader's epoch word. */
function inSection(epoch: number, operation: Code): Code {
  const [SEEN, NOW] = [epoch + 1, epoch + 2];
  return [open(epoch, SEEN, NOW), operation, set(SEEN), exit(epoch), get(SEEN)].flat();
}

/** Maximum count of pages of one section, which takes less than a microsecond. An unmap waits for sections. */
const SECTION_PAGES = 16;

/** Adds `by` to a local, and leaves the sum on the stack. */
const advance = (local: number, by: number): Code => [get(local), i32(by), ADD, tee(local)].flat();

/** The locals of a loop over pages, behind the parameters. */
const loopLocals = (epoch: number) => ({
  done: epoch + 1,
  end: epoch + 2,
  seen: epoch + 3,
  now: epoch + 4,
  free: epoch + 5,
});
const LOOP_LOCALS: number = 4 + PAGE_LOCALS;

/**
 * Repeats `body` for up to SECTION_PAGES of `count` pages in each section. It advances `done` to `end`; if it leaves
 * earlier, that is the end.
 */
function inSections(count: number, epoch: number, body: Code): Code {
  const { done, end, seen, now } = loopLocals(epoch);
  return block(
    loop(
      ...[get(done), get(count), GE, brIf(1)],
      ...[get(done), i32(SECTION_PAGES), ADD, set(end)],
      ...[get(count), get(end), LT, when(get(count), set(end))],
      ...[open(epoch, seen, now), block(body), exit(epoch)],
      ...[get(done), get(end), EQ, brIf(0)],
    ),
  );
}

/**
 * pinRun(gib, low, count, perm, epoch), unpinRun(gib, low, count, epoch) → count of pages done before the first that
 * failed. The run stays in its GiB.
 */
function runBody(operation: (page: PageLocals) => Code, isFailure: Code, epoch: number): Code {
  const { done, end, free } = loopLocals(epoch);
  const body = loop(
    ...[operation({ ...PAGE, free }), isFailure, brIf(1)],
    ...[advance(PAGE.low, PAGE_SIZE), DROP],
    ...[advance(done, 1), get(end), LT, brIf(0)],
  );
  return [inSections(2, epoch, body), get(done)].flat();
}

/** Walks of a step of `lookupList`. */
const LOOKUP_STEP = 4;

/**
 * lookupList(list, count): replaces each page number of a list by the leaf word of its page, or 0. Within a section. A
 * walk does not depend on the one before it, so that the processor overlaps their cache misses.
 */
function lookupListBody(): Code {
  const [AT, END, NUMBER, WORD, PAGES] = [0, 1, 2, 3, 4];
  const entry = (shift: number): Code =>
    [get(WORD), get(NUMBER), i32(shift), SHR_U, i32(NODE_ENTRIES - 1), AND, OR, i32(2), SHL].flat();
  /** Replaces the number at AT + `offset`. PAGES selects the bits that number the page within a larger leaf. */
  const replace = (offset: number): Code =>
    block(
      ...[get(AT), load(offset), tee(NUMBER), i32(18), SHR_U, i32(2), SHL, load(WORD_ROOT * 4), set(WORD)],
      block(
        ...[i32(2 ** 18 - 1), set(PAGES), isLeaf(WORD), brIf(0)],
        ...[entry(9), load(), set(WORD), i32(NODE_ENTRIES - 1), set(PAGES), isLeaf(WORD), brIf(0)],
        ...[get(AT), entry(0), load(), store(offset), br(1)],
      ),
      ...[get(AT), get(WORD), get(NUMBER), get(PAGES), AND, i32(PFN_SHIFT), SHL, ADD, store(offset)],
    );
  const steps = (pages: number): Code =>
    block(
      loop(
        ...[get(END), i32(-4 * pages), ADD, get(AT), LT, brIf(1)],
        ...Array.from({ length: pages }, (_, i) => replace(4 * i)),
        ...[get(AT), i32(4 * pages), ADD, set(AT), br(0)],
      ),
    );
  return [get(AT), get(END), i32(2), SHL, ADD, set(END), steps(LOOKUP_STEP), steps(1)].flat();
}

/** Count of leaves that a step of `fillLeaves` writes. */
const FILL_STEP = 8;

/**
 * fillLeaves(entry, count, frame): leavesFill of protocol.ts, with vectors of four words. `entry` is the byte address of
 * the first frame word.
 */
function fillLeavesBody(): Code {
  const [ENTRY, COUNT, FRAME] = [0, 1, 2];
  const step = 1 << PFN_SHIFT;
  const lanes = vector4(0, step, 2 * step, 3 * step);
  const valid = vector4(PIN_VALID, PIN_VALID, PIN_VALID, PIN_VALID);
  const next = (count: number): Code =>
    [
      ...[get(FRAME), i32(count * step), ADD, set(FRAME), get(ENTRY), i32(count * 4), ADD, set(ENTRY)],
      ...[get(COUNT), i32(-count), ADD, set(COUNT), br(0)],
    ].flat();
  return [
    block(
      loop(
        ...[get(COUNT), i32(FILL_STEP), LT, brIf(1)],
        ...[get(ENTRY), get(FRAME), splat, lanes, addVector, storeVector()],
        ...[get(ENTRY), get(FRAME), i32(4 * step), ADD, splat, lanes, addVector, storeVector(16)],
        ...[get(ENTRY), valid, storeVector(NODE_PIN), get(ENTRY), valid, storeVector(NODE_PIN + 16)],
        next(FILL_STEP),
      ),
    ),
    block(
      loop(
        ...[get(COUNT), EQZ, brIf(1)],
        ...[get(ENTRY), get(FRAME), store(), get(ENTRY), i32(PIN_VALID), store(NODE_PIN)],
        next(1),
      ),
    ),
  ].flat();
}

const failed: Code = [i32(0), LT].flat();

const FUNCTIONS: readonly Func[] = [
  {
    name: 'pin',
    params: 4,
    locals: 2 + PAGE_LOCALS,
    results: 1,
    body: inSection(3, pinPage({ ...PAGE, free: 6 }, 2)),
  },
  {
    name: 'unpin',
    params: 3,
    locals: 2 + PAGE_LOCALS,
    results: 1,
    body: inSection(2, unpinPage({ ...PAGE, free: 5 })),
  },
  { name: 'enter', params: 2, locals: 1, results: 1, body: [enter(0, 1, 2), get(1)].flat() },
  { name: 'exit', params: 1, locals: 0, results: 0, body: exit(0) },
  {
    name: 'pinRun',
    params: 5,
    locals: LOOP_LOCALS,
    results: 1,
    body: runBody((page) => pinPage(page, 3), failed, 4),
  },
  { name: 'unpinRun', params: 4, locals: LOOP_LOCALS, results: 1, body: runBody(unpinPage, EQZ, 3) },
  { name: 'lookupList', params: 2, locals: 3, results: 0, body: lookupListBody() },
  { name: 'fillLeaves', params: 3, locals: 0, results: 0, body: fillLeavesBody() },
];

/** Returns the module's bytes; the same on every machine. */
export const kernelBytes = (): Uint8Array<ArrayBuffer> => assemble(FUNCTIONS, MAX_PAGES);
