/**
 * Layout of a pin table: one SharedArrayBuffer of int32 words, written by one thread and read by many.
 *
 * ```
 * word 0     header: magic, generation, writer-waiting, switching, audit counters
 * word 64    reader slots, 16 words (one cache line) each: the reader's epoch
 * word 1024  root: 2^18 entries of 1 GiB
 * then       nodes of 512 entries: 2 MiB entries (children of the root) or 4 KiB entries
 * ```
 * Every entry is two words. The *frame word* is 0 (nothing), a child node's word index (a multiple of 1024, so its
 * two low bits are 0), or a leaf: host PFN << 2 | PERM_READ | PERM_WRITE. The *pin word* belongs to leaves: bit 0
 * says valid, the rest counts pins (one pin = 2).
 */
import { PAGE_SHIFT } from '../address/address.ts';

export const MAGIC = 0x6d645054; // 'mdPT'

export const WORD_MAGIC = 0;
/** Bumped by the writer for each unmap; a reader inside a DMA section has published one it saw. */
export const WORD_GENERATION = 1;
/** Not 0 while the writer waits for readers to leave: they then wake it. */
export const WORD_WRITER_WAITING = 2;
/** A sequence: odd while the address space is being switched, when a miss is not a fault yet. */
export const WORD_SWITCHING = 3;

export const WORD_READERS = 64;
export const READER_STRIDE = 16;
/** Most threads that may attach to one table. */
export const MAX_READERS = 32;
/** A reader's epoch word when it is in no DMA section. Generations are odd and never take this value. */
export const OUTSIDE = 0;

export const WORD_ROOT = 1024;
export const ENTRY_WORDS = 2;
export const ROOT_BITS = 18;
export const NODE_BITS = 9;
export const ROOT_ENTRIES = 2 ** ROOT_BITS;
export const NODE_ENTRIES = 2 ** NODE_BITS;
export const NODE_WORDS = NODE_ENTRIES * ENTRY_WORDS;
export const WORD_NODES = WORD_ROOT + ROOT_ENTRIES * ENTRY_WORDS;

/** First IOVA beyond the table: 48-bit IOVAs. */
export const TABLE_IOVA_LIMIT = 2 ** (ROOT_BITS + NODE_BITS + NODE_BITS + PAGE_SHIFT);

export const PERM_MASK = 3;
export const PFN_SHIFT = 2;
/** First host PFN that a frame word cannot hold. */
export const PFN_LIMIT = 2 ** 30;

export const PIN_VALID = 1;
export const PIN_ONE = 2;
/** Most pins of one leaf; far below overflow of the 31-bit count. */
export const PIN_LIMIT = 2 ** 24;

/** Word index of reader `slot`'s epoch. */
export const readerEpoch = (slot: number): number => WORD_READERS + slot * READER_STRIDE;

/** Bytes of a table with room for `nodes` nodes (each holds 512 pages or 512 children). */
export const tableBytes = (nodes: number): number => (WORD_NODES + nodes * NODE_WORDS) * 4;
