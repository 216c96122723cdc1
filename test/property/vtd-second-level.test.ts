/**
 * Random second-level tables, garbage included: the model against a naive walk written from the specification alone.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import type { Iova } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import type { Translation } from '../../src/viommu/notifier.ts';
import { IntelIommu } from '../../src/viommu/vtd/iommu.ts';
import { SecondLevelFormat, SecondLevelTables } from '../../src/viommu/vtd/second-level.ts';
import { RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

/** Tables live in this many pages from here; the pool is small, so tables are shared and loop. */
const TABLES = 0x100000;
const POOL = 5;
/** Entries at few, telling indices: the ends, and around the interrupt range (4 GiB − 18 MiB). */
const INDICES = [0, 1, 3, 0x1f7, 0x100, 511];
const DEVICE = 8;

interface Edit {
  readonly table: number;
  readonly index: number;
  readonly value: bigint;
}

const address = fc.oneof(
  { weight: 6, arbitrary: fc.nat(POOL - 1).map((i) => BigInt(TABLES + i * 4096)) },
  { weight: 2, arbitrary: fc.nat(31).map((i) => BigInt(i) << 21n) },
  { weight: 1, arbitrary: fc.nat(3).map((i) => BigInt(i) << 30n) },
  { weight: 1, arbitrary: fc.bigInt(0n, (1n << 52n) - 1n).map((a) => a & ~0xfffn) },
);
const permissions = fc.constantFrom(3n, 3n, 3n, 1n, 2n, 0n);
const extras = fc.oneof(
  { weight: 12, arbitrary: fc.constant(0n) },
  { weight: 4, arbitrary: fc.constant(0x80n) },
  { weight: 2, arbitrary: fc.constantFrom(0x700n, 0x7cn, 1n << 63n, 0x3ffn << 52n) },
  { weight: 1, arbitrary: fc.constantFrom(0x800n, 1n << 62n, 1n << 47n, 1n << 48n) },
);
const entry = fc.oneof(
  { weight: 20, arbitrary: fc.tuple(address, permissions, extras).map(([a, p, x]) => a | p | x) },
  { weight: 1, arbitrary: fc.bigInt(0n, (1n << 64n) - 1n) },
  { weight: 2, arbitrary: fc.constant(0n) },
);
const edit: fc.Arbitrary<Edit> = fc.record({
  table: fc.nat(POOL - 1),
  index: fc.constantFrom(...INDICES),
  value: entry,
});
const width = fc.constantFrom<{ awBits: 39 | 48; levels: number }>(
  { awBits: 39, levels: 3 },
  { awBits: 48, levels: 3 },
  { awBits: 48, levels: 4 },
);

const bytesOf = (value: bigint): Uint8Array => {
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setBigUint64(0, value, true);
  return new Uint8Array(bytes.buffer);
};

const place = (ram: GuestRam, { table, index, value }: Edit): void =>
  ram.write(TABLES + table * 4096 + index * 8, bytesOf(value));

/** Valid tables to start from, a few entries each linked to the next table; random edits then spoil them. */
function skeleton(ram: GuestRam): void {
  ram.write(TABLES, new Uint8Array(POOL * 4096));
  for (let table = 0; table < POOL; table++)
    for (const index of [0, 3, 0x1f7])
      place(ram, { table, index, value: BigInt(TABLES + ((table + 1) % POOL) * 4096) | 3n });
}

/** The 512 entries of a table, none if it is not in RAM. */
const load = (ram: GuestRam, table: bigint): BigUint64Array =>
  ram.contains(Number(table), 4096)
    ? new BigUint64Array(ram.read(Number(table), 4096).buffer)
    : new BigUint64Array();

/** Specification section 9.8: bits that must be 0. */
function reserved(pte: bigint, level: number, leaf: boolean, awBits: number): boolean {
  let mask = (1n << 62n) | (((1n << 52n) - 1n) & ~((1n << BigInt(awBits)) - 1n)) | (1n << 11n);
  if (leaf) mask |= ((1n << BigInt(12 + 9 * (level - 1))) - 1n) & ~0xfffn;
  if (level === 4) mask |= 0x80n;
  return (pte & mask) !== 0n;
}

/** Every translation, found by looking at every entry. */
function naive(
  ram: GuestRam,
  awBits: number,
  table: bigint,
  level: number,
  base: bigint,
  allowed: bigint,
  found: Translation[],
): void {
  const span = 1n << BigInt(12 + 9 * (level - 1));
  for (const [index, pte] of load(ram, table).entries()) {
    if (pte === 0n) continue;
    const granted = allowed & pte & 3n;
    const leaf = level === 1 || (level < 4 && (pte & 0x80n) !== 0n);
    if (granted === 0n || reserved(pte, level, leaf, awBits)) continue;
    const target = pte & ((1n << 52n) - 1n) & ~0xfffn;
    const iova = base + BigInt(index) * span;
    if (!leaf) naive(ram, awBits, target, level - 1, iova, granted, found);
    else if (target >= 0xfef00000n || target + span <= 0xfee00000n) add(iova, target, span, granted, found);
  }
}

/** Without what lies in the interrupt range. */
function add(iova: bigint, gpa: bigint, size: bigint, perm: bigint, found: Translation[]): void {
  const pieces: [bigint, bigint][] =
    iova < 0xfef00000n && iova + size > 0xfee00000n
      ? [
          [iova, 0xfee00000n],
          [0xfef00000n, iova + size],
        ]
      : [[iova, iova + size]];
  for (const [start, end] of pieces)
    if (start < end && start >= iova)
      found.push({
        iova: Number(start),
        gpa: Number(gpa + start - iova),
        size: Number(end - start),
        perm: Number(perm),
      } as Translation);
}

function allOf(tables: SecondLevelTables, start = 0, end = 2 ** 48): Translation[] {
  const found: Translation[] = [];
  tables.walk(start, end, (iova, gpa, size, perm) => {
    found.push({ iova, gpa, size, perm });
  });
  return found;
}

describe('VT-d second-level tables, random', () => {
  const runs = { numRuns: 200 };

  it('walk, leafAt and partial walks agree with a naive walk', () => {
    const ram = smallRam();
    fc.assert(
      fc.property(
        width,
        fc.array(edit, { maxLength: 14 }),
        fc.array(fc.tuple(fc.nat(), fc.double({ min: 0, max: 1, noNaN: true })), { maxLength: 8 }),
        ({ awBits, levels }, edits, probes) => {
          skeleton(ram);
          for (const each of edits) place(ram, each);
          const tables = new SecondLevelTables(
            ram,
            TABLES,
            levels,
            new SecondLevelFormat({ awBits, cachingMode: true }),
          );
          const expected: Translation[] = [];
          naive(ram, awBits, BigInt(TABLES), levels, 0n, 3n, expected);
          expect(allOf(tables)).to.deep.equal(expected);
          for (const [pick, where] of probes) {
            const at = Math.floor(where * 2 ** awBits);
            const near = expected[pick % Math.max(1, expected.length)];
            for (const iova of [
              at,
              ...(near ? [near.iova, near.iova + near.size - 1, near.iova + near.size] : []),
            ]) {
              const covering = expected.find((t) => iova >= t.iova && iova < t.iova + t.size);
              expect(tables.leafAt(iova)).to.deep.equal(covering);
              const leaf = tables.translate(iova, false);
              const outside = iova < 0xfee00000 || iova >= 0xfef00000;
              if (outside) expect(typeof leaf === 'object').to.equal(((covering?.perm ?? 0) & 1) !== 0);
            }
            if (near) {
              const end = near.iova + near.size + 0x1000;
              const inside = expected.filter((t) => t.iova < end && t.iova + t.size > near.iova);
              expect(allOf(tables, near.iova, end)).to.deep.equal(inside);
            }
          }
        },
      ),
      runs,
    );
  });

  it('translate never throws and always gives a GPA or a fault reason, whatever the tables hold', () => {
    const ram = smallRam();
    fc.assert(
      fc.property(
        fc.array(edit, { maxLength: 30 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        (edits, picks) => {
          skeleton(ram);
          for (const each of edits) place(ram, each);
          const iommu = new IntelIommu({ ram, awBits: 48, cachingMode: false });
          // The garbage serves as root and context tables too.
          iommu.writeRegister(0x20, 8, BigInt(TABLES));
          iommu.writeRegister(0x18, 4, 0xc0000000n);
          for (const pick of picks) {
            const result = iommu.translate(
              pick & 0xffff,
              ((pick * 4096) % 2 ** 48) as Iova,
              (pick & 1) !== 0,
            );
            if (!result.ok) expect(result.reason).to.be.within(1, 0xe);
          }
        },
      ),
      runs,
    );
  });

  it('a container follows random edits when every edit is invalidated', () => {
    const ram = smallRam();
    fc.assert(
      fc.property(
        fc.array(edit, { maxLength: 12 }),
        fc.array(fc.tuple(fc.array(edit, { minLength: 1, maxLength: 3 }), fc.boolean()), { maxLength: 6 }),
        (initial, rounds) => {
          skeleton(ram);
          for (const each of initial) place(ram, each);
          const { iommu, notifier, space } = unit(ram);
          for (const [edits, byPage] of rounds) {
            // Either one domain-selective invalidation, or a page-selective one inside each mapping, old and new.
            for (const each of edits) place(ram, each);
            if (byPage) invalidatePages(iommu, ram, notifier);
            else iommu.writeRegister(0xf8, 8, 0xa000000700000000n);
            expect(mapped(notifier)).to.deep.equal(wanted(ram));
            expect(space.audit()).to.deep.equal([]);
          }
        },
      ),
      { numRuns: 100 },
    );
  });
});

/** A translating unit with one device in domain 7, whose tables are the pool's. */
function unit(ram: GuestRam): { iommu: IntelIommu; notifier: RecordingNotifier; space: DeviceAddressSpace } {
  const [root, contexts] = [0x10000, 0x11000];
  ram.write(root, bytesOf(BigInt(contexts) | 1n));
  ram.write(contexts + DEVICE * 16, bytesOf(BigInt(TABLES) | 1n));
  ram.write(contexts + DEVICE * 16 + 8, bytesOf(0x702n));
  const iommu = new IntelIommu({ ram, awBits: 48, cachingMode: true });
  const notifier = new RecordingNotifier(ram);
  const space = new DeviceAddressSpace(DEVICE, notifier, ram.regions);
  iommu.attach(space);
  iommu.writeRegister(0x20, 8, BigInt(root));
  iommu.writeRegister(0x18, 4, 0xc0000000n);
  return { iommu, notifier, space };
}

const inRam = (ram: GuestRam) => (t: Translation) => ram.contains(t.gpa, t.size);

function wanted(ram: GuestRam): Translation[] {
  const found: Translation[] = [];
  naive(ram, 48, BigInt(TABLES), 4, 0n, 3n, found);
  return found.filter(inRam(ram));
}

const mapped = (notifier: RecordingNotifier): Translation[] => notifier.mappings.map((t) => ({ ...t }));

/** One page-selective invalidation inside everything that was mapped or is to be. */
function invalidatePages(iommu: IntelIommu, ram: GuestRam, notifier: RecordingNotifier): void {
  for (const { iova } of [...mapped(notifier), ...wanted(ram)]) {
    iommu.writeRegister(0xf0, 8, BigInt(iova - (iova % 4096)));
    iommu.writeRegister(0xf8, 8, 0xb000000700000000n);
  }
}
