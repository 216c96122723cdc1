/**
 * Entries of AMD-Vi's page tables (specification sections 2.2.3 and 2.2.5), as the specification and as QEMU read them.
 */

import * as amdvi from '../../abi/amdvi.ts';
import { PAGE_SIZE } from '../../memory/address.ts';
import type { Quirks } from '../quirks.ts';

/** `absent`: PR is 0. `invalid`: a reserved bit, level or size. `unreadable`: QEMU takes it for a failed read. */
export type EntryKind = 'absent' | 'invalid' | 'leaf' | 'table';

/**
 * Decoder of one entry at a time: {@link decode} returns the kind and leaves the entry's fields in the object. A walk
 * decodes millions of entries and so allocates nothing.
 */
export class EntryDecoder {
  /** `leaf` and `table`: permissions, PERM_READ | PERM_WRITE, that the levels so far grant. */
  perm = 0;
  /** `leaf`: bytes of the page. It may be smaller than the entry's span in QEMU's reading, or larger. */
  size = 0;
  /** `leaf`: GPA of the page. `table`: GPA of the next table. */
  target = 0;
  /** `table`: its level. */
  next = 0;
  /** True if QEMU's reading applies. */
  readonly asQemu: boolean;

  constructor(quirks: Quirks) {
    this.asQemu = quirks === 'qemu';
  }

  /** @param allowed permissions that the levels above grant */
  decode(level: number, low: number, high: number, allowed: number): EntryKind {
    return this.asQemu
      ? this.#asQemu(level, low, high, allowed)
      : this.#asSpecified(level, low, high, allowed);
  }

  #asSpecified(level: number, low: number, high: number, allowed: number): EntryKind {
    if ((low & amdvi.PTE_PR) === 0) return 'absent';
    const next = (low >>> amdvi.NEXT_LEVEL_SHIFT) & amdvi.NEXT_LEVEL_MASK;
    this.perm = allowed & permOf(high);
    const span = amdvi.spanOfLevel(level);
    if (next === amdvi.NEXT_LEVEL_PAGE || next === amdvi.NEXT_LEVEL_SIZED) {
      if ((high & amdvi.LEAF_RESERVED) !== 0) return 'invalid';
      this.#leaf(next === amdvi.NEXT_LEVEL_PAGE ? span : encodedSize(low, high), low, high);
      // Section 2.2.3: an encoded size lies between the default sizes of its level and of the next.
      const legal = next === amdvi.NEXT_LEVEL_PAGE || (this.size > span && this.size < span * amdvi.PTES);
      return legal ? 'leaf' : 'invalid';
    }
    if ((high & amdvi.DIRECTORY_RESERVED) !== 0) return 'invalid';
    return this.#table(level, next, low, high);
  }

  /** Only the leaf's own permissions bind. If the levels have none in common, the entry reached counts as a leaf. */
  #asQemu(level: number, low: number, high: number, allowed: number): EntryKind {
    if (low === 0xffff_ffff && high === 0xffff_ffff) return 'invalid';
    const own = permOf(high);
    const common = allowed & own;
    const present = (low & amdvi.PTE_PR) !== 0;
    if (!present) return 'absent';
    const next = (low >>> amdvi.NEXT_LEVEL_SHIFT) & amdvi.NEXT_LEVEL_MASK;
    const span = amdvi.spanOfLevel(level);
    this.perm = own;
    if (common === 0 || next === amdvi.NEXT_LEVEL_PAGE || next === amdvi.NEXT_LEVEL_SIZED) {
      const sized = common !== 0 && next === amdvi.NEXT_LEVEL_SIZED;
      this.#leaf(sized ? encodedSize(low, high) : span, low, high);
      return 'leaf';
    }
    this.perm = common;
    return this.#table(level, next, low, high);
  }

  #leaf(size: number, low: number, high: number): void {
    const address = addressOf(low, high);
    this.size = size;
    // A remainder of the address costs a third of a replay, and a page has none.
    this.target = size === PAGE_SIZE ? address : address - (address % size);
  }

  #table(level: number, next: number, low: number, high: number): EntryKind {
    if (next >= level) return 'invalid';
    this.next = next;
    this.target = addressOf(low, high);
    return 'table';
  }
}

/** Returns PERM_READ | PERM_WRITE of a word with IR and IW. */
export const permOf = (high: number): number => (high >>> amdvi.PERM_SHIFT) & 3;

/** Returns the address in bits 51:12 of an entry. */
export const addressOf = (low: number, high: number): number =>
  (high & amdvi.HIGH_ADDRESS) * 2 ** 32 + (low - (low % 4096));

/** Returns the size that the lowest 0 at or above bit 12 encodes. */
function encodedSize(low: number, high: number): number {
  const ones = trailingOnes(low >>> 12);
  return 2 ** (13 + (ones < 20 ? ones : 20 + Math.min(20, trailingOnes(high & amdvi.HIGH_ADDRESS))));
}

/** Returns the count of 1 bits below the lowest 0 of a 32-bit word. */
function trailingOnes(word: number): number {
  const zeros = ~word;
  return zeros === 0 ? 32 : 31 - Math.clz32(zeros & -zeros);
}
