/**
 * The protocol kernels: the few functions in which a device thread and the writing thread meet.
 *
 * Two ways to touch memory, and why neither outlives an unmap:
 *
 * *Short DMA.* `dmaEnter` publishes a generation and confirms it; lookups and copies follow with plain loads;
 * `dmaExit` publishes OUTSIDE. The writer clears entries, bumps the generation, and waits until each reader is
 * outside or has published the new one. Argument: publish and confirm are sequentially consistent, as are bump and
 * the writer's look at the epoch. If the writer misses the publication, the publication comes after its look, hence
 * after the bump, so the confirming load sees the new generation and with it the cleared entries.
 *
 * *Long pin.* `pinAcquire` adds a pin and reads the valid bit in one operation; the writer clears the valid bit and
 * reads the count in one operation. They are ordered: either the pin sees invalid and undoes itself, or the writer
 * sees the pin and waits for it. The frame word stays until the count is 0, so a pinned leaf can be read. The same
 * three operations on the entry that links a leaf table decide about the whole table at once; see pins.ts.
 *
 * Plain free functions: no closures, no methods, no spinning.
 */
import * as mem from '#mem';
import * as layout from './layout.ts';

const { ld, st, add, and, or, wr, wake, fillWords } = mem;
const {
  OUTSIDE,
  PFN_SHIFT,
  PIN_LIMIT,
  PIN_ONE,
  PIN_VALID,
  pinWord,
  readerEpoch,
  WORD_GENERATION,
  WORD_SWITCHING,
  WORD_WRITER_WAITING,
} = layout;

/** Difference of the frame words of two neighbouring host pages. */
const FRAME_STEP = 1 << PFN_SHIFT;

/**
 * Opens a short-DMA section; returns the generation to pass as `cached` next time. The confirming load is not
 * decoration: "store the epoch, then plain loads" is safe on x86 only. It loops as often as the writer bumps.
 */
export function dmaEnter(table: mem.SharedWords, slot: number, cached: number): number {
  const epoch = readerEpoch(slot);
  let generation = cached;
  for (;;) {
    st(table, epoch, generation, 'dma.enter.publish');
    const now = ld(table, WORD_GENERATION, 'dma.enter.confirm');
    if (now === generation) return generation;
    generation = now;
  }
}

/**
 * Closes the section. The writer raises WRITER_WAITING before it looks at the epoch it will wait on, so either it
 * sees OUTSIDE or this thread sees the flag and wakes it.
 */
export function dmaExit(table: mem.SharedWords, slot: number): void {
  const epoch = readerEpoch(slot);
  st(table, epoch, OUTSIDE, 'dma.exit.publish');
  if (ld(table, WORD_WRITER_WAITING, 'dma.exit.waiting') !== 0) wake(table, epoch, 'dma.exit.wake');
}

/** Adds a pin to the leaf at `entry`. False if it is no longer valid or has PIN_LIMIT pins; the pin is then undone. */
export function pinAcquire(table: mem.SharedWords, entry: number): boolean {
  const word = pinWord(entry);
  const before = add(table, word, PIN_ONE, 'pin.inc');
  if ((before & PIN_VALID) !== 0 && before < PIN_LIMIT * PIN_ONE) return true;
  // The writer may have seen this failed pin and be waiting for it.
  if (add(table, word, -PIN_ONE, 'pin.undo') === PIN_ONE) wake(table, word, 'pin.undo.wake');
  return false;
}

/** Drops a pin. Whoever brings an invalid leaf to 0 wakes the writer: decided by the operation's own answer. */
export function pinRelease(table: mem.SharedWords, entry: number): void {
  const word = pinWord(entry);
  if (add(table, word, -PIN_ONE, 'unpin.dec') === PIN_ONE) wake(table, word, 'unpin.wake');
}

/** Makes a leaf visible: the frame word first, so that whoever sees the valid bit can read the frame. */
export function leafPublish(table: mem.SharedWords, entry: number, frame: number): void {
  st(table, entry, frame, 'map.frame');
  // `or`, never `store`: a pin that failed on the previous mapping may sit between its +2 and its -2.
  or(table, pinWord(entry), PIN_VALID, 'map.valid');
}

/** {@link leafPublish} for the entry that links a leaf table: readers then find whatever leaves the node has. */
export function linkPublish(table: mem.SharedWords, entry: number, node: number): void {
  st(table, entry, node, 'map.link');
  or(table, pinWord(entry), PIN_VALID, 'map.valid');
}

/**
 * Writes `count` leaves of consecutive frames into a node that is not linked yet: plain stores, which the link's
 * store then orders before itself. Nobody else can be at the node: it is new, or its last readers have drained.
 */
export function leavesFill(table: mem.SharedWords, entry: number, count: number, frame: number): void {
  let word = frame;
  for (let at = entry, end = entry + count; at < end; at++) {
    wr(table, at, word, 'map.frame');
    word = (word + FRAME_STEP) | 0;
  }
  fillWords(table, pinWord(entry), count, PIN_VALID, 'map.valid');
}

/** {@link leavesFill} for `count` frames that are not consecutive: host PFNs. */
export function framesFill(
  table: mem.SharedWords,
  entry: number,
  frames: Int32Array,
  count: number,
  perm: number,
): void {
  for (let i = 0; i < count; i++)
    wr(table, entry + i, ((frames[i] as number) << PFN_SHIFT) | perm, 'map.frame');
  fillWords(table, pinWord(entry), count, PIN_VALID, 'map.valid');
}

/** First step of an unmap: refuses new pins. Returns the pins that are held. */
export function leafInvalidate(table: mem.SharedWords, entry: number): number {
  return (and(table, pinWord(entry), ~PIN_VALID, 'unmap.invalidate') & ~PIN_VALID) / PIN_ONE;
}

/** Pins held on a leaf now. */
export const leafPins = (table: mem.SharedWords, entry: number): number =>
  (ld(table, pinWord(entry), 'unmap.pincount') & ~PIN_VALID) / PIN_ONE;

/** Second step, once no pins are held: the frame goes. Readers in a section may still have seen it. */
export function leafClear(table: mem.SharedWords, entry: number): void {
  wr(table, entry, 0, 'unmap.clear');
}

/** Third step: from here on a confirmed section sees the cleared entries. Returns the new generation. */
export function generationBump(table: mem.SharedWords): number {
  // Generations start at 1 and stay odd, so that not even the wrap steps on OUTSIDE: a section opened there would
  // be one that the writer cannot see.
  return (add(table, WORD_GENERATION, 2, 'unmap.bump') + 2) | 0;
}

/** Last step: the epoch that still blocks reader `slot`'s drain, or OUTSIDE if it is drained. */
export function readerBlocking(table: mem.SharedWords, slot: number, generation: number): number {
  const epoch = ld(table, readerEpoch(slot), 'unmap.epoch');
  return epoch === generation ? OUTSIDE : epoch;
}

/**
 * The switch sequence: odd during a switch. A reader that misses looks again between two equal even values before
 * it calls the miss a fault: then no switch overlapped the second look.
 */
export const switchSequence = (table: mem.SharedWords): number => ld(table, WORD_SWITCHING, 'walk.switching');
