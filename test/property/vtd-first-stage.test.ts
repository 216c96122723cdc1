/**
 * Random first-stage tables, garbage included: the model against a naive walk written only from the specification.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import type { Iova } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import type { Translation } from '../../src/viommu/notifier.ts';
import { FirstStageFormat, FirstStageTables } from '../../src/viommu/vtd/first-stage.ts';
import { IntelIommu } from '../../src/viommu/vtd/iommu.ts';
import { WALK_ENTRY_LIMIT } from '../../src/viommu/vtd/page-tables.ts';
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
  POOL,
  put,
  ROOT,
  TABLES,
  TABLES_END,
  translationsOf,
  type WalkRig,
  writeTables,
} from '../fixtures/vtd-walk-rig.ts';

/** The ends, the two halves, and the interrupt range. */
const INDICES = [0, 1, 3, INTERRUPT_INDEX, 255, 256, 511];
const [DIRECTORY, PASIDS] = [0x12000, 0x13000] as const;

const PRESENT_USER = 0x5n;
const A = 0x20n;
const D = 0x40n;
const PS = 0x80n;
const REASONS = [0x70, 0x71, 0x72, 0x73, 0x80, 0x81, 0x85, 0x87];

const edit = editOf({
  indices: INDICES,
  addresses: [0xfee00000n, 0xfec00000n, 0xc0000000n],
  permissions: fc.constantFrom(7n, 7n, 7n, 5n, 3n, 6n, 0n),
  bits: fc.oneof(
    { weight: 12, arbitrary: fc.constant(0n) },
    { weight: 4, arbitrary: fc.constant(PS) },
    { weight: 2, arbitrary: fc.constantFrom(A, A | D, D, 0x118n, 0xe00n, 1n << 63n, 0x7ffn << 52n) },
    { weight: 1, arbitrary: fc.constantFrom(0x1000n, 0x2000n, 1n << 47n, 1n << 48n, 1n << 51n) },
  ),
});

const tablesOf = (ram: GuestRam, edits: readonly Edit[]): void =>
  writeTables(ram, [0, 3, INTERRUPT_INDEX, 511], 7n, edits);

const entryAt = (ram: GuestRam, gpa: bigint): bigint | undefined =>
  ram.contains(Number(gpa), 8)
    ? new DataView(ram.read(Number(gpa), 8).buffer).getBigUint64(0, true)
    : undefined;

interface Step {
  readonly gpa: bigint;
  readonly entry: bigint;
  readonly leaf: boolean;
}

/** Walks the tables for one 48-bit address as section 9.7 defines. Returns the entries on the way and the result. */
function naiveWalk(
  ram: GuestRam,
  has1G: boolean,
  iova: bigint,
  write: boolean,
): {
  readonly way: Step[];
  readonly target: bigint | undefined;
  readonly size: bigint;
  readonly writable: boolean;
} {
  const way: Step[] = [];
  let table = BigInt(TABLES);
  let writable = true;
  const stop = { way, target: undefined, size: 0n, writable: false };
  for (const shift of [39n, 30n, 21n, 12n]) {
    const gpa = table + ((iova >> shift) & 511n) * 8n;
    const entry = entryAt(ram, gpa);
    if (entry === undefined || (entry & PRESENT_USER) !== PRESENT_USER) return stop;
    if (write && (entry & 2n) === 0n) return stop;
    writable &&= (entry & 2n) !== 0n;
    const leaf = shift === 12n || (entry & PS) !== 0n;
    if (((entry >> 48n) & 15n) !== 0n) return stop;
    if (leaf && (shift === 39n || (shift === 30n && !has1G))) return stop;
    // Below the address of a large leaf, only PAT (bit 12) may be set.
    if (leaf && shift > 12n && (entry & ((1n << shift) - 1n) & ~0x1fffn) !== 0n) return stop;
    way.push({ gpa, entry, leaf });
    table = entry & 0xf_ffff_ffff_f000n;
    if (!leaf) continue;
    const size = 1n << shift;
    const base = table & ~(size - 1n);
    if (base < INTERRUPTS[1] && base + size > INTERRUPTS[0]) return stop;
    return { way, target: base + (iova & (size - 1n)), size, writable };
  }
  return stop;
}

/** Addresses at which an entry begins or ends, in both halves. */
const probe = fc
  .tuple(
    fc.constantFrom(...INDICES),
    fc.constantFrom(...INDICES),
    fc.constantFrom(...INDICES),
    fc.constantFrom(...INDICES),
  )
  .map(([a, b, c, d]) => (BigInt(a) << 39n) | (BigInt(b) << 30n) | (BigInt(c) << 21n) | (BigInt(d) << 12n));

const canonical = (iova: bigint): bigint => (iova >> 47n === 1n ? iova | (0xffffn << 48n) : iova);
const interrupts = (iova: bigint): boolean => iova >= INTERRUPTS[0] && iova < INTERRUPTS[1];

const tables = (ram: GuestRam, has1G: boolean, onWalked?: (entries: number) => void) =>
  new FirstStageTables(
    ram,
    TABLES,
    new FirstStageFormat({ awBits: 48, cachingMode: true, firstStage1G: has1G }),
    onWalked,
  );

describe('random VT-d first-stage tables', () => {
  const ram = smallRam();
  const cases = [
    fc.boolean(),
    fc.array(edit, { maxLength: 14 }),
    fc.array(probe, { maxLength: 10 }),
  ] as const;

  it('translate like a naive walk, and set A and D only in the entries on the way', () => {
    fc.assert(
      fc.property(...cases, fc.boolean(), (has1G, edits, probes, write) => {
        tablesOf(ram, edits);
        const unit = tables(ram, has1G);
        for (const iova of probes) {
          const before = ram.read(TABLES, POOL * 4096);
          const { way, target } = naiveWalk(ram, has1G, iova, write);
          const got = unit.translate(Number(canonical(iova)), write);
          if (typeof got === 'number') {
            expect(REASONS).to.include(got);
            expect(target).to.equal(undefined);
          } else expect(got.gpa + Number(canonical(iova) - BigInt(got.iova))).to.equal(Number(target));
          expect(Buffer.from(ram.read(TABLES, POOL * 4096)).equals(marked(before, way, write))).to.equal(
            true,
          );
        }
      }),
      { numRuns: 300 },
    );
  });

  it('walk like a naive walk in the lower half, and keep A and D', () => {
    fc.assert(
      fc.property(...cases, (has1G, edits, probes) => {
        tablesOf(ram, edits);
        let entries = 0;
        const unit = tables(ram, has1G, (walked) => {
          entries = walked;
        });
        const before = ram.read(TABLES, POOL * 4096);
        const found = translationsOf(unit);
        expect(entries).to.be.at.most(WALK_ENTRY_LIMIT);
        for (const [i, { iova, size }] of found.entries())
          expect(iova + size).to.be.at.most(found[i + 1]?.iova ?? 2 ** 47);
        for (const iova of probes) {
          const { target, writable } = naiveWalk(ram, has1G, iova, false);
          const covering = found.find((t) => Number(iova) >= t.iova && Number(iova) < t.iova + t.size);
          expect(unit.leafAt(Number(iova))).to.deep.equal(covering);
          const mapped = target !== undefined && iova < 1n << 47n && !interrupts(iova);
          expect(covering !== undefined).to.equal(mapped);
          if (covering) {
            expect(covering.gpa + Number(iova) - covering.iova).to.equal(Number(target));
            expect(covering.perm).to.equal(writable ? 3 : 1);
          }
        }
        expect(Buffer.from(before).equals(ram.read(TABLES, POOL * 4096))).to.equal(true);
      }),
      { numRuns: 150 },
    );
  });

  it('return a GPA or a fault reason when every table of scalable mode is garbage', () => {
    fc.assert(
      fc.property(
        fc.array(edit, { maxLength: 30 }),
        fc.array(fc.nat(), { maxLength: 20 }),
        fc.constantFrom<'spec' | 'qemu'>('spec', 'qemu'),
        (edits, picks, quirks) => {
          tablesOf(ram, edits);
          const both = { scalable: true, firstStage: true, secondStage: true };
          const iommu = new IntelIommu({ ram, awBits: 48, cachingMode: false, quirks, ...both });
          iommu.writeRegister(0x20, 8, BigInt(TABLES) | 0x400n);
          iommu.writeRegister(0x18, 4, 0xc0000000n);
          for (const pick of picks) {
            const iova = (pick * 2 ** 33 - (pick % 3) * 4096 + 4096 * 3) as Iova;
            const result = iommu.translate(pick & 0xffff, iova, (pick & 1) !== 0);
            if (!result.ok) expect(result.reason).to.be.within(1, 0x87);
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it('are followed by a container when every edit is invalidated', () => {
    checkFollowsEdits({
      ram,
      edit,
      rounds: 5,
      numRuns: 60,
      start: (edits) => {
        tablesOf(ram, edits);
        return startUnit(ram);
      },
      expected: () => expectedIn(ram),
    });
  });
});

/** Returns the tables' bytes with A set along the way, and D in the leaf of a write. */
function marked(before: Uint8Array, way: readonly Step[], write: boolean): Buffer {
  const after = Buffer.from(before);
  for (const { gpa, leaf } of way) {
    if (gpa < TABLES || gpa >= TABLES_END) continue;
    const at = Number(gpa) - TABLES;
    after.writeUInt8(after.readUInt8(at) | Number(leaf && write ? A | D : A), at);
  }
  return after;
}

const expectedIn = (ram: GuestRam): Translation[] => inRam(ram, translationsOf(tables(ram, true)));

/** Starts a unit with one device in domain 7, which uses first-stage tables, and PASID-based queued invalidations. */
function startUnit(ram: GuestRam): WalkRig {
  const queue = 0x14000;
  put(ram, ROOT, BigInt(CONTEXTS) | 1n);
  put(ram, CONTEXTS + DEVICE * 32, BigInt(DIRECTORY) | 1n);
  put(ram, DIRECTORY, BigInt(PASIDS) | 1n);
  put(ram, PASIDS, 0x49n);
  put(ram, PASIDS + 8, 7n);
  put(ram, PASIDS + 16, BigInt(TABLES));
  const iommu = new IntelIommu({ ram, awBits: 48, cachingMode: true, scalable: true, firstStage: true });
  const notifier = new RecordingNotifier(ram);
  const space = new DeviceAddressSpace(DEVICE, notifier, ram.regions);
  iommu.attach(space);
  iommu.writeRegister(0x20, 8, BigInt(ROOT) | 0x400n);
  iommu.writeRegister(0x90, 8, BigInt(queue) | 0x800n);
  iommu.writeRegister(0x18, 4, 0xc4000000n);
  let tail = 0;
  const submit = (low: bigint, high: bigint) => {
    put(ram, queue + tail, low);
    put(ram, queue + tail + 8, high);
    tail = (tail + 32) % 4096;
    iommu.writeRegister(0x88, 8, BigInt(tail));
  };
  const invalidate = (iovas?: readonly number[]) => {
    if (!iovas) submit(0x70026n, 0n);
    else for (const iova of iovas) submit(0x70036n, BigInt(iova));
  };
  return { space, notifier, invalidate };
}
