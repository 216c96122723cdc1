/**
 * Guest tables of a random plan: domains with second-level tables, the intended value of each entry, and the writes that
 * corrupt or restore one entry.
 */
import type { Prng } from '#host';
import type { TableWrite } from './plan.ts';

export const ROOT_TABLE = 0x1000000;
export const CONTEXT_TABLE = 0x1001000;
const FIRST_TABLE = 0x1010000;
/** Memory that the IOVAs map to. */
const DATA_LOW = 0x2000000;
const DATA_HIGH = 0x100000000;
const DATA_PAGES = 64;
const HUGE_2M = [0x10000000, 0x10200000, 0x7a000000, 0x118000000] as const;
const HUGE_1G = [0x40000000, 0x140000000] as const;
const PAGE = 4096;

export interface Mapping {
  readonly iova: bigint;
  readonly size: number;
  readonly gpa: number;
  /** GPAs of its entries, top table first. */
  readonly entries: readonly number[];
}

export interface Domain {
  readonly id: number;
  readonly levels: 3 | 4;
  readonly top: number;
  readonly mappings: Mapping[];
}

/** Returns a random page that DMA may access. */
export function dataPage(prng: Prng): number {
  return (prng.below(2) === 0 ? DATA_LOW : DATA_HIGH) + prng.below(DATA_PAGES) * PAGE;
}

export class GuestTables {
  readonly #prng: Prng;
  #next = FIRST_TABLE;
  /** Intended values, by the GPA of the entry. */
  readonly #intended = new Map<number, bigint>();

  constructor(prng: Prng) {
    this.#prng = prng;
  }

  newDomain(id: number, levels: 3 | 4): Domain {
    return { id, levels, top: this.#newTable(), mappings: [] };
  }

  /** Maps a page at `leafLevel`. @returns the entries to write; none if something else is mapped there */
  map(domain: Domain, iova: bigint, leafLevel: 1 | 2 | 3): TableWrite[] {
    const prng = this.#prng;
    const writes: TableWrite[] = [];
    const entries: number[] = [];
    let table = domain.top;
    for (let level = domain.levels; level > leafLevel; level--) {
      const at = entryAt(table, iova, level);
      entries.push(at);
      const held = this.#intended.get(at);
      if (held !== undefined && (held & 0x80n) !== 0n) return [];
      if (held === undefined) {
        const child = this.#newTable();
        writes.push(this.#intend(at, BigInt(child) | 3n));
        table = child;
      } else table = Number(held & 0xffffffffff000n);
    }
    const at = entryAt(table, iova, leafLevel);
    if (this.#intended.has(at)) return [];
    const gpa =
      leafLevel === 1
        ? dataPage(prng)
        : ((leafLevel === 2 ? HUGE_2M[prng.below(HUGE_2M.length)] : HUGE_1G[prng.below(HUGE_1G.length)]) ??
          0);
    const perm = [3n, 3n, 3n, 3n, 1n, 2n, 0n][prng.below(7)] ?? 3n;
    writes.push(this.#intend(at, BigInt(gpa) | perm | (leafLevel > 1 ? 0x80n : 0n)));
    domain.mappings.push({ iova, size: PAGE * 512 ** (leafLevel - 1), gpa, entries: [...entries, at] });
    return writes;
  }

  intendedAt(entry: number): bigint {
    return this.#intended.get(entry) ?? 0n;
  }

  /** Returns the write of the intended entry. */
  intended(entry: number): TableWrite {
    return { gpa: entry, words: [this.intendedAt(entry)] };
  }

  /** Returns the write of an entry with one error, or with an ignored bit set. */
  corrupt(entry: number, leaf: boolean, awBits: 39 | 48): TableWrite {
    const held = this.intendedAt(entry);
    const corruption = CORRUPTIONS[this.#prng.below(CORRUPTIONS.length)] as Corruption;
    return { gpa: entry, words: [BigInt.asUintN(64, corruption(held, this.#prng, leaf, awBits))] };
  }

  #newTable(): number {
    const table = this.#next;
    this.#next += PAGE;
    return table;
  }

  #intend(gpa: number, value: bigint): TableWrite {
    this.#intended.set(gpa, value);
    return { gpa, words: [value] };
  }
}

const entryAt = (table: number, iova: bigint, level: number): number =>
  table + Number((iova >> BigInt(12 + 9 * (level - 1))) & 0x1ffn) * 8;

/** Corrupts an entry. The result must block an access or lead to the intended page, where the outcome is read. */
type Corruption = (held: bigint, prng: Prng, leaf: boolean, awBits: 39 | 48) => bigint;

const bitOf = (prng: Prng, low: number, count: number): bigint => 1n << BigInt(low + prng.below(count));

/** Returns the entry of a large page that is not aligned to its size. */
const misaligned = (held: bigint, prng: Prng): bigint =>
  (held & 0x80n) === 0n ? held : held | bitOf(prng, 12, 9);

/** Table addresses without RAM. */
const NOWHERE = [0xd0000000n, 0x200000000n, 0x7000000000n] as const;

const CORRUPTIONS: readonly Corruption[] = [
  () => 0n,
  (held) => held & ~1n,
  (held) => held & ~2n,
  (held) => held & ~3n,
  (held) => held ^ 3n,
  (held) => held | (1n << 11n),
  (held) => held | (1n << 62n),
  (held) => held | (1n << 63n),
  (held, prng) => held | bitOf(prng, 52, 10),
  (held, prng, _leaf, awBits) => held | bitOf(prng, awBits, 52 - awBits),
  (held, prng) => held | bitOf(prng, 8, 3),
  (held, prng) => held | bitOf(prng, 3, 4),
  (held, prng, leaf) => (leaf ? misaligned(held, prng) : (held & 0xfffn) | (NOWHERE[prng.below(3)] ?? 0n)),
  (held, _prng, leaf) => (leaf ? held & ~1n : held | 0x80n),
  // A result in the interrupt range: blocked, or a reserved bit if it does not fit the page size.
  (held, prng, leaf) =>
    leaf ? (held & 0xfffn) | 0xfee00000n | (BigInt(prng.below(256)) << 12n) : held & ~3n,
  (held, _prng, leaf) => (leaf ? held | (1n << 62n) | (1n << 11n) : held & ~2n),
];

/** Returns the two words of a context entry. */
export function contextWords(
  type: 0 | 1 | 2,
  aw: number,
  table: number,
  domain: number,
  fpd: boolean,
): bigint[] {
  const low = BigInt(table) | (BigInt(type) << 2n) | (fpd ? 2n : 0n) | 1n;
  return [low, BigInt(aw) | (BigInt(domain) << 8n)];
}

/** Returns a context entry with one error, or with an ignored bit set. */
export function corruptContext(words: readonly bigint[], prng: Prng): bigint[] {
  const [low = 0n, high = 0n] = words;
  switch (prng.below(11)) {
    case 0:
      return [low & ~1n, high];
    case 1:
      return [low | bitOf(prng, 4, 8), high];
    case 2:
      return [low | bitOf(prng, 48, 16), high];
    case 3:
      return [low, high | bitOf(prng, 24, 40)];
    case 4:
      return [low, high | bitOf(prng, 3, 4)];
    case 5:
      return [low, high | 0x80n];
    case 6:
      return [low, (high & ~7n) | BigInt(prng.below(8))];
    case 7:
      return [(low & ~0xcn) | 0xcn, high];
    case 8:
      return [(low & ~0xcn) | 0x4n, high];
    case 9:
      return [(low & 0xfffn) | (NOWHERE[prng.below(3)] ?? 0n), high];
    default:
      return [low ^ 2n, high];
  }
}

/** Returns a root entry with one error. */
export function corruptRoot(prng: Prng): bigint[] {
  const low = BigInt(CONTEXT_TABLE) | 1n;
  switch (prng.below(5)) {
    case 0:
      return [low & ~1n, 0n];
    case 1:
      return [low | bitOf(prng, 1, 11), 0n];
    case 2:
      return [low | bitOf(prng, 48, 16), 0n];
    case 3:
      return [low, bitOf(prng, 0, 64)];
    default:
      return [1n | (NOWHERE[prng.below(3)] ?? 0n), 0n];
  }
}
