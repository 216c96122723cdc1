/**
 * Layout of a pin table: one SharedArrayBuffer of int32 words, written by one thread and read by many.
 *
 * ```
 * word 0     the null node: always 0, so that a walk needs no test for "no child" (a lookup's 5.1 ns become 4.5 ns)
 * word 1024  header: magic, generation, writer-waiting, switching, high root, audit counters
 * word 1088  reader slots, 16 words (one cache line) each: the reader's epoch
 * word 2048  root: 2^18 entries of 1 GiB
 * then       nodes of 512 entries: 1 GiB entries (children of the high root), 2 MiB entries or 4 KiB entries
 * then       in a table of 57-bit IOVAs, the high root: 512 nodes of 512 GiB entries; those from 2^48 on are used
 * then       in a table that can log dirty pages, the page log
 * ```
 * Every entry is two words, and an entry is named by the index of its frame word. The root and each node hold all
 * their frame words, then all their pin words: a lookup reads only the former, so that caches hold twice as many
 * (64k pages in 256 KiB, 1M pages in 4 MiB). The *frame word* is 0 (nothing: the null node), a child node's word index (a multiple of 1024, so its
 * two low bits are 0), or a leaf: host PFN << 2 | PERM_READ | PERM_WRITE. The *pin word* has the valid bit in bit 0,
 * the rest counts pins (one pin = 2): a leaf's own, or, in the entry that links a leaf table (a node of 4 KiB
 * entries), those of all leaves in it.
 */
import { PAGE_SHIFT } from '../memory/address.ts';

export const MAGIC = 0x6d645054; // 'mdPT'

export const WORD_MAGIC = 1024;
/** Bumped by the writer for each unmap; a reader inside a DMA section has published one it saw. */
export const WORD_GENERATION = 1025;
/** Not 0 while the writer waits for readers to leave: they then wake it. */
export const WORD_WRITER_WAITING = 1026;
/** A sequence: odd while the address space is being switched, when a miss is not a fault yet. */
export const WORD_SWITCHING = 1027;
/** Word index of the root for IOVAs from 2^48 on; 0 if the table has none. Written once, before anybody reads. */
export const WORD_HIGH_ROOT = 1028;
/** The page log (page-log.ts): word index of its bitmaps, first host PFN and number of pages; 0 if there is none. */
export const WORD_LOG = 1029;
export const WORD_LOG_FIRST = 1030;
export const WORD_LOG_PAGES = 1031;
/** Not 0 while what devices write is logged. */
export const WORD_LOGGING = 1032;

export const WORD_READERS = 1088;
export const READER_STRIDE = 16;
/** Most threads that may attach to one table. */
export const MAX_READERS = 32;
/** A reader's epoch word when it is in no DMA section. Generations are odd and never take this value. */
export const OUTSIDE = 0;

export const WORD_ROOT = 2048;
export const ROOT_BITS = 18;
export const NODE_BITS = 9;
export const ROOT_ENTRIES = 2 ** ROOT_BITS;
export const NODE_ENTRIES = 2 ** NODE_BITS;
export const NODE_WORDS = NODE_ENTRIES * 2;
export const WORD_NODES = WORD_ROOT + ROOT_ENTRIES * 2;

/** Word index of the pin word of `entry`. */
export const pinWord = (entry: number): number => entry + (entry < WORD_NODES ? ROOT_ENTRIES : NODE_ENTRIES);

/** First IOVA beyond a table of 48-bit IOVAs. */
export const TABLE_IOVA_LIMIT = 2 ** (ROOT_BITS + NODE_BITS + NODE_BITS + PAGE_SHIFT);
/** Bytes that one entry of the high root covers. */
export const HIGH_SPAN = 2 ** (NODE_BITS + NODE_BITS + NODE_BITS + PAGE_SHIFT);
/** First IOVA beyond a table of 57-bit IOVAs. */
export const HIGH_IOVA_LIMIT = HIGH_SPAN * ROOT_ENTRIES;
/** Most nodes of one table: 2 GiB of them, so that every byte address is a positive int32. */
export const MAX_NODES = 2 ** 19 - 2048;

export const PERM_MASK = 3;
export const PFN_SHIFT = 2;
/** First host PFN that a frame word cannot hold. */
export const PFN_LIMIT = 2 ** 30;

export const PIN_VALID = 1;
export const PIN_ONE = 2;
/** Most pins of one leaf, and of all leaves of one leaf table; far below overflow of the 31-bit count. */
export const PIN_LIMIT = 2 ** 24;

/** Word index of reader `slot`'s epoch. */
export const readerEpoch = (slot: number): number => WORD_READERS + slot * READER_STRIDE;

/** IOVA widths a table may have. */
export type IovaBits = 48 | 57;

/** Words of a table without its page log, with room for `nodes` nodes (each holds 512 pages or 512 children). */
export const tableWords = (nodes: number, iovaBits: IovaBits = 48): number =>
  WORD_NODES + nodes * NODE_WORDS + (iovaBits === 57 ? ROOT_ENTRIES * 2 : 0);
