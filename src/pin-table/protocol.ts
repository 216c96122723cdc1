/**
 * The protocol kernels: the few functions in which a device thread and the writing thread meet.
 *
 * A device touches memory in one of two ways. Neither outlives an unmap.
 *
 * *Short DMA.* The reader: `dmaEnter` publishes a generation and confirms it, lookups and copies follow with plain
 * loads, `dmaExit` publishes OUTSIDE. The writer: it clears entries, bumps the generation, and waits until each reader
 * is outside or has published the new generation. Why no section uses a cleared entry after that wait:
 *
 * 1. Publish, confirm, bump and the writer's load of the epoch are sequentially consistent, so they have one order.
 * 2. If the writer's load returns an older generation, the writer waits until that epoch changes.
 * 3. If it returns the new generation, the reader has loaded that generation, so its section sees the cleared entries.
 * 4. If it returns OUTSIDE while a section opens, the publication comes after this load, and so after the bump. The
 *    confirming load then returns the new generation, so the section sees the cleared entries too.
 *
 * *Long pin.* `pinAcquire` adds a pin and reads the valid bit in one operation. The writer clears the valid bit and
 * reads the count in one operation. Why no page is unmapped while it is pinned:
 *
 * 1. Both operations are on the same word, so one of them comes first.
 * 2. If the writer is first, the pin finds the leaf invalid and undoes itself.
 * 3. If the pin is first, the writer finds it in the count and waits for it.
 * 4. The frame word stays until the count is 0, so the holder of a pin can read the leaf.
 *
 * The same operations on the entry that links a leaf table decide about the whole table at once; see pin-counts.ts.
 *
 * All kernels are plain free functions: no closures, no methods. None of them waits.
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

/** Difference between the frame words of two consecutive host pages. */
const FRAME_STEP = 1 << PFN_SHIFT;

/**
 * Opens a short-DMA section. Returns the generation to pass as `cached` next time. The confirming load is required:
 * "store the epoch, then plain loads" is safe on x86 only. The loop repeats once for each bump that it meets.
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
 * Closes the section. No wake-up is lost:
 * 1. The writer raises WRITER_WAITING, then loads the epoch that it will wait on.
 * 2. This thread publishes OUTSIDE, then loads WRITER_WAITING.
 * 3. So either the writer loads OUTSIDE, or this thread loads the flag and wakes the writer.
 */
export function dmaExit(table: mem.SharedWords, slot: number): void {
  const epoch = readerEpoch(slot);
  st(table, epoch, OUTSIDE, 'dma.exit.publish');
  if (ld(table, WORD_WRITER_WAITING, 'dma.exit.waiting') !== 0) wake(table, epoch, 'dma.exit.wake');
}

/** Adds a pin to the leaf at `entry`. Returns false, the pin undone, if the leaf is invalid or has PIN_LIMIT pins. */
export function pinAcquire(table: mem.SharedWords, entry: number): boolean {
  const word = pinWord(entry);
  const before = add(table, word, PIN_ONE, 'pin.inc');
  if ((before & PIN_VALID) !== 0 && before < PIN_LIMIT * PIN_ONE) return true;
  // The writer may have counted this failed pin and wait for it.
  if (add(table, word, -PIN_ONE, 'pin.undo') === PIN_ONE) wake(table, word, 'pin.undo.wake');
  return false;
}

/** Drops a pin. By the subtraction's own result, the thread that leaves an invalid leaf at 0 wakes the writer. */
export function pinRelease(table: mem.SharedWords, entry: number): void {
  const word = pinWord(entry);
  if (add(table, word, -PIN_ONE, 'unpin.dec') === PIN_ONE) wake(table, word, 'unpin.wake');
}

/** Makes a leaf visible. The frame word is stored first, so a thread that reads the valid bit can read the frame. */
export function leafPublish(table: mem.SharedWords, entry: number, frame: number): void {
  st(table, entry, frame, 'map.frame');
  // `or`, never `store`: a pin that fails on the previous mapping may be between its +2 and its -2.
  or(table, pinWord(entry), PIN_VALID, 'map.valid');
}

/** {@link leafPublish} for the entry that links a leaf table: readers then find the leaves of the node. */
export function linkPublish(table: mem.SharedWords, entry: number, node: number): void {
  st(table, entry, node, 'map.link');
  or(table, pinWord(entry), PIN_VALID, 'map.valid');
}

/**
 * Writes `count` leaves of consecutive frames into a node that is not yet linked. Plain stores are enough:
 * 1. No other thread accesses the node: it is new, or its last readers have drained.
 * 2. The store of the link orders them before itself, so a reader that follows the link sees them.
 */
export function leavesFill(table: mem.SharedWords, entry: number, count: number, frame: number): void {
  let word = frame;
  for (let at = entry, end = entry + count; at < end; at++) {
    wr(table, at, word, 'map.frame');
    word = (word + FRAME_STEP) | 0;
  }
  fillWords(table, pinWord(entry), count, PIN_VALID, 'map.valid');
}

/** {@link leavesFill} for `count` host PFNs that need not be consecutive. */
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

/** Step 1 of an unmap: refuses new pins. Returns the count of pins that are held. */
export function leafInvalidate(table: mem.SharedWords, entry: number): number {
  return (and(table, pinWord(entry), ~PIN_VALID, 'unmap.invalidate') & ~PIN_VALID) / PIN_ONE;
}

/** Returns the count of pins that are held on a leaf now. */
export const leafPins = (table: mem.SharedWords, entry: number): number =>
  (ld(table, pinWord(entry), 'unmap.pincount') & ~PIN_VALID) / PIN_ONE;

/** Step 2, once no pins are held: clears the frame. Readers in a section may still use it. */
export function leafClear(table: mem.SharedWords, entry: number): void {
  wr(table, entry, 0, 'unmap.clear');
}

/** Step 3: sections confirmed from here on see the cleared entries. Returns the new generation. */
export function generationBump(table: mem.SharedWords): number {
  // Generations start at 1 and stay odd, so none is OUTSIDE, not even after the wrap. The writer could not see a
  // section of generation OUTSIDE.
  return (add(table, WORD_GENERATION, 2, 'unmap.bump') + 2) | 0;
}

/** Step 4, the drain: returns the epoch with which reader `slot` still blocks it, or OUTSIDE if it does not. */
export function readerBlocking(table: mem.SharedWords, slot: number, generation: number): number {
  const epoch = ld(table, readerEpoch(slot), 'unmap.epoch');
  return epoch === generation ? OUTSIDE : epoch;
}

/**
 * Returns the switch sequence: odd during a switch. A reader that misses repeats its lookup between two loads of the
 * sequence. Only if both are equal and even is the miss a fault: no switch overlapped the second lookup.
 */
export const switchSequence = (table: mem.SharedWords): number => ld(table, WORD_SWITCHING, 'walk.switching');
