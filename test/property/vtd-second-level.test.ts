/**
 * Random second-level tables, garbage included: the model against a naive walk written only from the specification.
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
import {
  CONTEXTS,
  checkFollowsEdits,
  DEVICE,
  type Edit,
  editOf,
  INTERRUPT_INDEX,
  INTERRUPTS,
  inRam,
  put,
  ROOT,
  TABLES,
  translationsOf,
  type WalkRig,
  writeTables,
} from '../fixtures/vtd-walk-rig.ts';

const edit = editOf({
  indices: [0, 1, 3, INTERRUPT_INDEX, 0x100, 511],
  permissions: fc.constantFrom(3n, 3n, 3n, 1n, 2n, 0n),
  bits: fc.oneof(
    { weight: 12, arbitrary: fc.constant(0n) },
    { weight: 4, arbitrary: fc.constant(0x80n) },
    { weight: 2, arbitrary: fc.constantFrom(0x700n, 0x7cn, 1n << 63n, 0x3ffn << 52n) },
    { weight: 1, arbitrary: fc.constantFrom(0x800n, 1n << 62n, 1n << 47n, 1n << 48n) },
  ),
});
const width = fc.constantFrom<{ awBits: 39 | 48; levels: number }>(
  { awBits: 39, levels: 3 },
  { awBits: 48, levels: 3 },
  { awBits: 48, levels: 4 },
);

const tablesOf = (ram: GuestRam, edits: readonly Edit[]): void =>
  writeTables(ram, [0, 3, INTERRUPT_INDEX], 3n, edits);

/** Returns the 512 entries of a table, none if it is not in RAM. */
const load = (ram: GuestRam, table: bigint): BigUint64Array =>
  ram.contains(Number(table), 4096)
    ? new BigUint64Array(ram.read(Number(table), 4096).buffer)
    : new BigUint64Array();

/** Returns true if bits are set that section 9.8 of the specification reserves. */
function reserved(pte: bigint, level: number, leaf: boolean, awBits: number): boolean {
  let mask = (1n << 62n) | (((1n << 52n) - 1n) & ~((1n << BigInt(awBits)) - 1n)) | (1n << 11n);
  if (leaf) mask |= ((1n << BigInt(12 + 9 * (level - 1))) - 1n) & ~0xfffn;
  if (level === 4) mask |= 0x80n;
  return (pte & mask) !== 0n;
}

/** Adds every translation to `found`, by a visit of every entry. */
function naiveWalk(
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
    if (!leaf) naiveWalk(ram, awBits, target, level - 1, iova, granted, found);
    else if (target >= INTERRUPTS[1] || target + span <= INTERRUPTS[0])
      add(iova, target, span, granted, found);
  }
}

/** Adds a translation, without its part in the interrupt range. */
function add(iova: bigint, gpa: bigint, size: bigint, perm: bigint, found: Translation[]): void {
  const pieces: [bigint, bigint][] =
    iova < INTERRUPTS[1] && iova + size > INTERRUPTS[0]
      ? [
          [iova, INTERRUPTS[0]],
          [INTERRUPTS[1], iova + size],
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

describe('random VT-d second-level tables', () => {
  const runs = { numRuns: 200 };

  it('walk whole and in parts, and find leaves, like a naive walk', () => {
    const ram = smallRam();
    fc.assert(
      fc.property(
        width,
        fc.array(edit, { maxLength: 14 }),
        fc.array(fc.tuple(fc.nat(), fc.double({ min: 0, max: 1, noNaN: true })), { maxLength: 8 }),
        ({ awBits, levels }, edits, probes) => {
          tablesOf(ram, edits);
          const tables = new SecondLevelTables(
            ram,
            TABLES,
            levels,
            new SecondLevelFormat({ awBits, cachingMode: true }),
          );
          const expected: Translation[] = [];
          naiveWalk(ram, awBits, BigInt(TABLES), levels, 0n, 3n, expected);
          expect(translationsOf(tables)).to.deep.equal(expected);
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
              expect(translationsOf(tables, near.iova, end)).to.deep.equal(inside);
            }
          }
        },
      ),
      runs,
    );
  });

  it('return a GPA or a fault reason when every table is garbage', () => {
    const ram = smallRam();
    fc.assert(
      fc.property(
        fc.array(edit, { maxLength: 30 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        (edits, picks) => {
          tablesOf(ram, edits);
          const iommu = new IntelIommu({ ram, awBits: 48, cachingMode: false });
          // The same garbage is also the root table and the context tables.
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

  it('are followed by a container when every edit is invalidated', () => {
    const ram = smallRam();
    checkFollowsEdits({
      ram,
      edit,
      rounds: 6,
      numRuns: 100,
      start: (edits) => {
        tablesOf(ram, edits);
        return startUnit(ram);
      },
      expected: () => expectedIn(ram),
    });
  });
});

/** Starts a unit with one device in domain 7, and register-based invalidations. */
function startUnit(ram: GuestRam): WalkRig {
  put(ram, ROOT, BigInt(CONTEXTS) | 1n);
  put(ram, CONTEXTS + DEVICE * 16, BigInt(TABLES) | 1n);
  put(ram, CONTEXTS + DEVICE * 16 + 8, 0x702n);
  const iommu = new IntelIommu({ ram, awBits: 48, cachingMode: true });
  const notifier = new RecordingNotifier(ram);
  const space = new DeviceAddressSpace(DEVICE, notifier, ram.regions);
  iommu.attach(space);
  iommu.writeRegister(0x20, 8, BigInt(ROOT));
  iommu.writeRegister(0x18, 4, 0xc0000000n);
  const invalidate = (iovas?: readonly number[]) => {
    if (!iovas) iommu.writeRegister(0xf8, 8, 0xa000000700000000n);
    else
      for (const iova of iovas) {
        iommu.writeRegister(0xf0, 8, BigInt(iova));
        iommu.writeRegister(0xf8, 8, 0xb000000700000000n);
      }
  };
  return { space, notifier, invalidate };
}

function expectedIn(ram: GuestRam): Translation[] {
  const found: Translation[] = [];
  naiveWalk(ram, 48, BigInt(TABLES), 4, 0n, 3n, found);
  return inRam(ram, found);
}
