/**
 * Ledger of the descriptors and the address space that a worker holds outside JavaScript, in memory that it shares with its
 * supervisor. A worker that has died frees nothing; its supervisor then frees what the ledger has.
 *
 * A descriptor leaves the ledger before it is closed, because its number may be another thread's at once afterwards. A
 * worker that dies in between leaks it, but nothing is ever closed twice.
 */
import * as mem from '#mem';
import { wordsOf } from '#mem';

const { and, ld, or, st } = mem;

/** Descriptors with a larger number are not in the ledger. */
const FDS_LIMIT = 65_536;
/** Most ranges of address space. */
const RANGES_LIMIT = 64;
/** Words of a range: the address and the length, low half first; 0 for none. */
const RANGE_WORDS = 4;
const FD_WORDS = FDS_LIMIT / 32;
const WORDS: number = FD_WORDS + RANGES_LIMIT * RANGE_WORDS;
const SITE = 'link.word';

/** A range of address space. */
interface AddressRange {
  readonly address: bigint;
  readonly length: number;
}

const rangeWord = (index: number): number => FD_WORDS + index * RANGE_WORDS;

export class ResourceLedger {
  readonly sab: SharedArrayBuffer;
  readonly #words: mem.SharedWords;

  constructor(sab = new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT)) {
    this.sab = sab;
    this.#words = wordsOf(sab);
  }

  /** Notes a descriptor that the worker has got. */
  opened(fd: number): void {
    if (fd < FDS_LIMIT) or(this.#words, fd >>> 5, 1 << (fd & 31), SITE);
  }

  /** Removes a descriptor that the worker is about to close. */
  closing(fd: number): void {
    if (fd >= 0 && fd < FDS_LIMIT) and(this.#words, fd >>> 5, ~(1 << (fd & 31)), SITE);
  }

  /** Notes a range that the worker has reserved; one beyond RANGES_LIMIT is not noted. */
  reserved({ address, length }: AddressRange): void {
    const at = this.#find(0n);
    if (at < 0) return;
    this.#store(at + 2, BigInt(length));
    this.#store(at, address);
  }

  /** Removes a range that the worker is about to release. */
  releasing(address: bigint): void {
    const at = this.#find(address);
    if (at >= 0) this.#store(at, 0n);
  }

  get fds(): readonly number[] {
    const found: number[] = [];
    for (let word = 0; word < FD_WORDS; word++) {
      const bits = ld(this.#words, word, SITE);
      for (let bit = 0; bits !== 0 && bit < 32; bit++) if ((bits >>> bit) & 1) found.push(word * 32 + bit);
    }
    return found;
  }

  get ranges(): readonly AddressRange[] {
    return Array.from({ length: RANGES_LIMIT }, (_, i) => rangeWord(i))
      .map((at) => ({ address: this.#load(at), length: Number(this.#load(at + 2)) }))
      .filter(({ address }) => address !== 0n);
  }

  /** Returns the word of the range at an address, or -1. */
  #find(address: bigint): number {
    for (let i = 0; i < RANGES_LIMIT; i++) if (this.#load(rangeWord(i)) === address) return rangeWord(i);
    return -1;
  }

  #load(at: number): bigint {
    const half = (word: number) => BigInt(ld(this.#words, word, SITE) >>> 0);
    return half(at) | (half(at + 1) << 32n);
  }

  #store(at: number, value: bigint): void {
    st(this.#words, at, Number(value & 0xffff_ffffn) | 0, SITE);
    st(this.#words, at + 1, Number(value >> 32n) | 0, SITE);
  }
}
