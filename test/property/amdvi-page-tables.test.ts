/**
 * Random AMD-Vi page tables, garbage included: the model against a naive walk written only from the specification.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import type { Iova } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { EntryDecoder } from '../../src/viommu/amdvi/entries.ts';
import { HostPageTables } from '../../src/viommu/amdvi/page-tables.ts';
import type { Translation } from '../../src/viommu/notifier.ts';
import { AmdRig, DEVICE, invalidateAll, invalidatePage, putDevice } from '../fixtures/amdvi-rig.ts';
import { smallRam } from '../fixtures/recording-notifier.ts';
import {
  checkFollowsEdits,
  type Edit,
  editOf,
  INTERRUPT_INDEX,
  POOL,
  TABLES,
  translationsOf,
  type WalkRig,
  writeTables,
} from '../fixtures/vtd-walk-rig.ts';

const PR = 1n;
const BOTH = 3n << 61n;

/** Index 1 of the pool's second table is reached through a level that skips others. */
const INDICES = [0, 1, 2, 3, 4, INTERRUPT_INDEX, 0x100, 511];
/** The low address bits of encoded sizes from 8 KiB to 2 MiB, of which the last is illegal in a lowest table. */
const SIZES = [0n, 0x1000n, 0x7000n, 0xff000n, 0x7f000n];

/**
 * Generates entries with mostly the level that fits their table: table i of the pool is mostly at level `levels` − i. Some
 * have an encoded size, and some any level.
 */
const editFor = (levels: number): fc.Arbitrary<Edit> =>
  fc
    .tuple(
      editOf({
        indices: INDICES,
        permissions: fc
          .constantFrom(BOTH, BOTH, BOTH, BOTH, 1n << 61n, 1n << 62n, 0n)
          .map((perm) => perm | PR),
        bits: fc.oneof(
          { weight: 12, arbitrary: fc.constant(0n) },
          { weight: 2, arbitrary: fc.constantFrom(0x60n, 1n << 63n, 3n << 59n) },
          { weight: 2, arbitrary: fc.constantFrom(1n << 52n, 1n << 58n, 1n << 51n) },
        ),
      }),
      fc.nat(9),
      fc.constantFrom(...SIZES),
    )
    .map(([edit, choice, size]) => {
      const value = edit.value & ~(7n << 9n);
      const fitting = BigInt(Math.max(0, levels - 1 - edit.table));
      if (choice < 4) return { ...edit, value: value | (fitting << 9n) };
      if (choice < 6) return { ...edit, value };
      if (choice < 8) return { ...edit, value: value | (7n << 9n) | size };
      return { ...edit, value: value | (BigInt(choice === 8 ? edit.index % 8 : 1) << 9n) };
    });

/** Returns the 512 entries of a table, none if it is not in RAM. */
const load = (ram: GuestRam, table: bigint): BigUint64Array =>
  ram.contains(Number(table), 4096)
    ? new BigUint64Array(ram.read(Number(table), 4096).buffer)
    : new BigUint64Array();

const spanOf = (at: number): bigint => 1n << BigInt(12 + 9 * (at - 1));

/** Returns the GPA of each 4 KiB-or-larger span that one entry translates, by a visit of every entry. */
function naiveWalk(
  ram: GuestRam,
  table: bigint,
  at: number,
  base: bigint,
  allowed: bigint,
  found: Map<bigint, { size: bigint; gpa: bigint; perm: number }>,
): void {
  for (const [index, entry] of load(ram, table).entries()) {
    if ((entry & PR) === 0n) continue;
    const next = Number((entry >> 9n) & 7n);
    const granted = allowed & entry & BOTH;
    const isLeaf = next === 0 || next === 7;
    const reserved = isLeaf ? 0x7fn << 52n : 0x1ffn << 52n;
    if (granted === 0n || (entry & reserved) !== 0n) continue;
    const address = entry & 0xf_ffff_ffff_f000n;
    const iova = base + BigInt(index) * spanOf(at);
    if (!isLeaf) {
      if (next < at) naiveWalk(ram, address, next, iova, granted, found);
      continue;
    }
    let size = spanOf(at);
    if (next === 7) {
      let position = 12n;
      while (position < 52n && ((address >> position) & 1n) === 1n) position++;
      size = 2n << position;
      if (size <= spanOf(at) || size >= spanOf(at + 1)) continue;
    }
    const page = address & ~(size - 1n);
    const gpa = page + (iova & (size - 1n));
    found.set(iova, { size: spanOf(at), gpa, perm: Number(granted >> 61n) });
  }
}

/** Returns the translation of a page by the naive walk, without the interrupt range. */
const expectedAt = (
  found: ReturnType<typeof naive>,
  iova: number,
): { gpa: number; perm: number } | undefined => {
  if (iova >= 0xfee00000 && iova < 0xfef00000) return undefined;
  for (const [start, { size, gpa, perm }] of found)
    if (BigInt(iova) >= start && BigInt(iova) < start + size)
      return { gpa: Number(gpa + BigInt(iova) - start), perm };
  return undefined;
};

function naive(ram: GuestRam, levels: number): Map<bigint, { size: bigint; gpa: bigint; perm: number }> {
  const found = new Map<bigint, { size: bigint; gpa: bigint; perm: number }>();
  naiveWalk(ram, BigInt(TABLES), levels, 0n, BOTH, found);
  return found;
}

/** Returns a translation as one for each page boundary of `found`, so that pieces and whole pages compare equal. */
const at = (
  translations: readonly Translation[],
  iova: number,
): { gpa: number; perm: number } | undefined => {
  const covering = translations.find((t) => iova >= t.iova && iova < t.iova + t.size);
  return covering && { gpa: covering.gpa + (iova - covering.iova), perm: covering.perm };
};

/** Returns addresses in and around every span below 2^48. */
const probesOf = (found: ReturnType<typeof naive>): number[] =>
  [...found]
    .flatMap(([start, { size }]) => [start, start + size - 4096n, start + size, start - 4096n])
    .filter((iova) => iova >= 0n && iova < 2n ** 48n)
    .map(Number);

/** Writes valid tables, of which each points to the next; then applies the edits. */
function tablesOf(ram: GuestRam, edits: readonly Edit[], levels: number): void {
  const entries = Array.from({ length: POOL }, (_, table) =>
    [0, 3, INTERRUPT_INDEX].map((index) => {
      const next = BigInt(Math.max(0, levels - 1 - table));
      const value = BigInt(TABLES + ((table + 1) % POOL) * 4096) | BOTH | PR | (next << 9n);
      return { table, index, value };
    }),
  );
  writeTables(ram, [], 0n, [...entries.flat(), ...edits]);
}

describe('random AMD-Vi page tables', () => {
  it('walk whole and in parts, find leaves and translate, like a naive walk', () => {
    const ram = smallRam();
    fc.assert(
      fc.property(
        fc
          .integer({ min: 1, max: 6 })
          .chain((levels) => fc.tuple(fc.constant(levels), fc.array(editFor(levels), { maxLength: 14 }))),
        fc.nat(),
        ([levels, edits], pick) => {
          tablesOf(ram, edits, levels);
          const place = { root: TABLES, levels, perm: 3 };
          const tables = new HostPageTables(ram, place, new EntryDecoder('spec'));
          const found = naive(ram, levels);
          const whole = translationsOf(tables);
          for (const [i, each] of whole.entries()) {
            const before = whole[i - 1];
            expect(each.size).to.be.above(0);
            if (before) expect(each.iova).to.be.at.least(before.iova + before.size);
          }
          const probes = probesOf(found);
          for (const iova of probes.slice(0, 200)) {
            const expected = expectedAt(found, iova);
            expect(at(whole, iova), `walk at ${iova}`).to.deep.equal(expected);
            const leaf = tables.leafAt(iova);
            expect(leaf && at([leaf], iova), `leaf at ${iova}`).to.deep.equal(expected);
            if (leaf) expect(whole).to.deep.include(leaf);
            if (iova >= 0xfee00000 && iova < 0xfef00000) continue;
            const answer = tables.translate(iova, false);
            expect('code' in answer ? undefined : at([answer], iova), `read at ${iova}`).to.deep.equal(
              expected && (expected.perm & 1) !== 0 ? expected : undefined,
            );
          }
          const middle = probes[pick % Math.max(1, probes.length)] ?? 0;
          const part = whole.filter((t) => t.iova < middle + 0x3000 && t.iova + t.size > middle);
          expect(translationsOf(tables, middle, middle + 0x3000)).to.deep.equal(part);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('return a GPA or a fault when every table is garbage', () => {
    const rig = new AmdRig();
    fc.assert(
      fc.property(
        fc.array(editFor(4), { maxLength: 30 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        (edits, picks) => {
          tablesOf(rig.ram, edits, 4);
          // The same garbage is also the device table.
          rig.write(0, BigInt(TABLES) | 3n);
          for (const pick of picks) {
            const iova = ((pick * 4096) % 2 ** 48) as Iova;
            const result = rig.iommu.translate(pick & 0x1ff, iova, (pick & 1) !== 0);
            if (!result.ok) expect(result.reason).to.be.within(1, 4);
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  for (const levels of [2, 3, 4, 5])
    it(`are followed by a container when every edit is invalidated: ${levels} levels`, () => {
      const rig = new AmdRig();
      const { ram } = rig;
      putDevice(ram, DEVICE, { low: TABLES | 3 | (levels << 9) });
      const tables = new HostPageTables(ram, { root: TABLES, levels, perm: 3 }, new EntryDecoder('spec'));
      checkFollowsEdits({
        ram,
        edit: editFor(levels),
        rounds: 6,
        numRuns: 60,
        start: (edits): WalkRig => {
          tablesOf(ram, edits, levels);
          rig.submit([DEVICE, 2 * 2 ** 28, 0, 0], invalidateAll());
          const invalidate = (iovas?: readonly number[]) => {
            if (!iovas) return void rig.submit(invalidateAll());
            // A page in each span that changes: of a page with an encoded size, one for each of its entries.
            for (const start of [
              ...iovas,
              ...spansOf(naive(ram, levels)),
              ...rig.notifier.mappings.flatMap(pagesOf),
            ])
              rig.submit(invalidatePage(start % 2 ** 32).with(3, Math.floor(start / 2 ** 32)));
          };
          return { space: rig.space, notifier: rig.notifier, invalidate };
        },
        expected: () => translationsIn(ram, tables),
      });
    });
});

const spansOf = (found: ReturnType<typeof naive>): number[] =>
  [...found.keys()].map(Number).filter((iova) => iova < 2 ** 48);
const pagesOf = ({ iova, size }: Translation): number[] =>
  Array.from({ length: Math.min(16, size / 4096) }, (_, i) => iova + (i * size) / Math.min(16, size / 4096));

/** Returns the whole translations, cut to RAM, which the first test has compared with the naive walk. */
function translationsIn(ram: GuestRam, tables: HostPageTables): Translation[] {
  return translationsOf(tables)
    .filter(({ gpa }) => gpa < ram.size)
    .map((each) => ({ ...each, size: Math.min(each.size, ram.size - each.gpa) }));
}
