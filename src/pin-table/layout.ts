/**
 * Layout of a pin table: one SharedArrayBuffer of int32 words, written by one thread and read by many.
 *
 * ```
 * word 0     the null node: always 0, so a walk needs no test for "no child" (4.5 ns a lookup instead of 5.1 ns)
 * word 1024  header: magic, generation, writer-waiting, switching, high root, place of the page log
 * word 1088  reader slots of 16 words (one cache line); each holds its reader's epoch
 * word 2048  root: 2^18 entries of 1 GiB
 * then       nodes of 512 entries of 1 GiB (children of the high root), 2 MiB or 4 KiB
 * then       with 57-bit IOVAs only: the high root, 512 nodes of 512 GiB entries; entries below 2^48 are unused
 * then       with dirty-page logging only: the page log
 * then       a list of pages for each reader: see reader.ts
 * ```
 * An entry is two words, and its name is the index of its frame word. The root and each node hold all their frame
 * words, then all their pin words. A lookup reads only frame words, so the caches hold twice as many of them (64k
 * pages in 256 KiB, 1M pages in 4 MiB).
 *
 * The *frame word* has one of three values:
 * - 0: nothing is mapped (the null node);
 * - the word index of a child node: a multiple of 1024, so its two low bits are 0;
 * - a leaf: host PFN << 2 | PERM_READ | PERM_WRITE.
 *
 * The *pin word* has the valid bit in bit 0; the other bits count pins, so one pin is 2. A leaf counts its own pins.
 * The entry that links a leaf table (a node of 4 KiB entries) counts the pins of all leaves in that table.
 */
import { PAGE_SHIFT } from '../memory/address.ts';

export const MAGIC = 0x6d645054; // 'mdPT'

export const WORD_MAGIC = 1024;
/** Bumped by the writer for each unmap. A reader in a DMA section has published a generation that it read. */
export const WORD_GENERATION = 1025;
/** Not 0 while the writer waits for readers to leave: a leaving reader then wakes it. */
export const WORD_WRITER_WAITING = 1026;
/** A sequence count. It is odd while the address space is being switched: a miss is then not yet a fault. */
export const WORD_SWITCHING = 1027;
/** Word index of the root for IOVAs from 2^48 on, or 0 without one. Written once, before any reader attaches. */
export const WORD_HIGH_ROOT = 1028;
/** The page log (page-log.ts): word index of its bitmaps, first host PFN and page count. A count of 0 means no log. */
export const WORD_LOG = 1029;
export const WORD_LOG_FIRST = 1030;
export const WORD_LOG_PAGES = 1031;
/** Not 0 while device writes are logged. */
export const WORD_LOGGING = 1032;
/** Word index of the readers' lists. */
export const WORD_LISTS = 1033;

const WORD_READERS = 1088;
const READER_STRIDE = 16;
/** Maximum count of threads that attach to one table. */
export const MAX_READERS = 32;
/** Epoch word of a reader outside any DMA section. Generations are odd, so none has this value. */
export const OUTSIDE = 0;

export const WORD_ROOT = 2048;
const ROOT_BITS = 18;
const NODE_BITS = 9;
export const ROOT_ENTRIES = 2 ** ROOT_BITS;
export const NODE_ENTRIES = 2 ** NODE_BITS;
export const NODE_WORDS = NODE_ENTRIES * 2;
export const WORD_NODES = WORD_ROOT + ROOT_ENTRIES * 2;

/** Returns the word index of the pin word of `entry`. */
export const pinWord = (entry: number): number => entry + (entry < WORD_NODES ? ROOT_ENTRIES : NODE_ENTRIES);

/** First IOVA beyond a table of 48-bit IOVAs. */
export const TABLE_IOVA_LIMIT = 2 ** (ROOT_BITS + NODE_BITS + NODE_BITS + PAGE_SHIFT);
/** Bytes covered by one entry of the high root. */
export const HIGH_SPAN = 2 ** (NODE_BITS + NODE_BITS + NODE_BITS + PAGE_SHIFT);
/** First IOVA beyond a table of 57-bit IOVAs. */
export const HIGH_IOVA_LIMIT = HIGH_SPAN * ROOT_ENTRIES;
/** Maximum count of nodes in one table. They take 2 GiB, so every byte address is a positive int32. */
export const MAX_NODES = 2 ** 19 - 2048;

export const PERM_MASK = 3;
export const PFN_SHIFT = 2;
/** First host PFN beyond a frame word. */
export const PFN_LIMIT = 2 ** 30;

export const PIN_VALID = 1;
export const PIN_ONE = 2;
/** Maximum count of pins on one leaf, and on all leaves of one leaf table. Far below the overflow of 31 bits. */
export const PIN_LIMIT = 2 ** 24;

/** Returns the word index of reader `slot`'s epoch. */
export const readerEpoch = (slot: number): number => WORD_READERS + slot * READER_STRIDE;

/** Maximum count of pages in a reader's list; each takes a word. */
export const LIST_PAGES = 512;

/** IOVA width of a table. */
export type IovaBits = 48 | 57;

/** Returns the words of a table of `nodes` nodes (each of 512 pages or 512 children), without its page log. */
export const tableWords = (nodes: number, iovaBits: IovaBits = 48): number =>
  WORD_NODES + nodes * NODE_WORDS + (iovaBits === 57 ? ROOT_ENTRIES * 2 : 0);
