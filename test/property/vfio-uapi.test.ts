import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { ProcessMemory } from '../../src/conformance/vfio/process-memory.ts';
import { TestDriver } from '../../src/conformance/vfio/test-driver.ts';
import { VfioError } from '../../src/vfio/errors.ts';
import { VfioContainer, VfioGroup } from '../../src/vfio/uapi/group.ts';
import type { Type1Violation } from '../../src/vfio/uapi/type1.ts';
import * as uapi from '../../src/vfio/uapi/vfio-uapi.ts';

const BASE = 0x100000n;
const BUF = 0x7f00_0000_0000n;
const ROBUF = 0x7f00_8000_0000n;
const PAGE = 4096n;
const PAGES = 16;
const ENTRY_LIMIT = 6;

/** Opens two devices in one container. */
function rig(v2: boolean) {
  const violations: Type1Violation[] = [];
  const container = new VfioContainer({ entryLimit: ENTRY_LIMIT, onViolation: (v) => violations.push(v) });
  const memory = ProcessMemory.fresh();
  const drivers = ['d0', 'd1'].map((name) => {
    const driver = new TestDriver(true, () => {});
    const group = new VfioGroup(name, driver);
    group.open();
    group.setContainer(container);
    driver.label = name;
    driver.device = group.device;
    return { driver, group };
  });
  container.setIommu(v2 ? uapi.Extension.type1v2 : uapi.Extension.type1);
  for (const { group } of drivers) group.getDevice(group.device.name);
  return {
    violations,
    container,
    memory,
    drivers: drivers.map(({ driver }) => driver),
    iommu: container.requireIommu(),
  };
}
type Rig = ReturnType<typeof rig>;

/** Addresses that often overlap, and sometimes lie at the end of 64 bits or are unaligned. */
const address = fc.oneof(
  { weight: 30, arbitrary: fc.nat(PAGES).map((page) => BASE + BigInt(page) * PAGE) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
  { weight: 1, arbitrary: fc.constantFrom(0n, 2n ** 64n - PAGE, 2n ** 63n, BASE + 0x800n) },
);
const length = fc.oneof(
  { weight: 30, arbitrary: fc.integer({ min: 1, max: PAGES }).map((pages) => BigInt(pages) * PAGE) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
  { weight: 1, arbitrary: fc.constantFrom(0n, 2n ** 63n, 2n ** 44n, 2n ** 64n - PAGE) },
);
const device = fc.nat(1);
const bits = (max: number, usual: number) =>
  fc.oneof({ weight: 10, arbitrary: fc.constant(usual) }, { weight: 2, arbitrary: fc.nat(max) });

/** Operations on the rig; each may throw VfioError. */
const operation: fc.Arbitrary<(rig: Rig) => void> = fc.oneof(
  fc
    .record({
      iova: address,
      size: length,
      vaddr: fc.constantFrom(BUF, ROBUF, 0n, BUF + 1023n * PAGE),
      flags: bits(15, 3),
    })
    .map(
      (map) =>
        ({ iommu, memory }: Rig) =>
          iommu.map(map, memory),
    ),
  fc
    .record({ iova: address, size: length, flags: bits(15, 0), dirty: fc.boolean() })
    .map(({ dirty, ...unmap }) => ({ iommu }: Rig) => {
      const before = iommu.mappings.size;
      const bitmap = { pgsize: PAGE, size: 8n, data: new Uint8Array(8) };
      const removed = iommu.unmap(dirty ? { ...unmap, flags: uapi.UNMAP_DIRTY_BITMAP, bitmap } : unmap);
      expect(iommu.mappings.size < before).to.equal(removed > 0n);
    }),
  fc
    .record({
      device,
      iova: address,
      count: fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: -1, max: 600 })),
      prot: bits(7, 1),
    })
    .map(({ device, iova, count, prot }) => ({ drivers, memory }: Rig) => {
      const before = memory.locked;
      let frames: unknown[] = [];
      try {
        frames = drivers[device]!.pin(iova, count, prot);
      } finally {
        if (frames.length === 0) expect(memory.locked, 'no page locked by a failed pin').to.equal(before);
      }
    }),
  fc.record({ device, iova: address, count: fc.integer({ min: -1, max: 5 }) }).map(
    ({ device, iova, count }) =>
      ({ drivers }: Rig) =>
        drivers[device]!.unpin(iova, count),
  ),
  fc.record({ device, iova: address, size: fc.nat(20000), write: fc.boolean() }).map(
    ({ device, iova, size, write }) =>
      ({ drivers, memory }: Rig) =>
        drivers[device]!.rw(iova, new Uint8Array(size), write, memory),
  ),
  fc
    .record({ device, mode: fc.constantFrom('unpin_all', 'lowest_page_only', 'one_ref_per_page', 'ignore') })
    .map(
      ({ device, mode }) =>
        ({ drivers }: Rig) =>
          drivers[device]!.setPolicy(mode, 0, true),
    ),
  fc.record({ flags: bits(9, 1), argsz: fc.constantFrom(7, 8, 48) }).map(
    (dirty) =>
      ({ iommu }: Rig) =>
        iommu.dirtyPages(dirty),
  ),
  fc.record({ iova: address, size: length }).map((range) => ({ iommu }: Rig) => {
    const bitmap = { pgsize: PAGE, size: 8n, data: new Uint8Array(8) };
    iommu.dirtyPages({ flags: uapi.DIRTY_GET_BITMAP, range: { ...range, bitmap } });
    checkDirty(iommu, range.iova, bitmap.data);
  }),
);

/** Checks that the bitmap has every pinned page of the range, and no unmapped page. */
function checkDirty(iommu: Rig['iommu'], iova: bigint, bitmap: Uint8Array): void {
  const base = uapi.pageOf(iova);
  for (let bit = 0; bit < 64; bit++) {
    const mapping = iommu.mappings.at(base + bit);
    const dirty = (bitmap[bit >> 3]! & (1 << (bit & 7))) !== 0;
    if (!mapping) expect(dirty, `page ${bit} is not mapped`).to.equal(false);
    else if (mapping.pins.find(base + bit, 0)) expect(dirty, `page ${bit} is pinned`).to.equal(true);
  }
}

function checkInvariants({ iommu, memory }: Rig): void {
  const mappings = [...iommu.mappings.values()];
  expect(mappings.length).to.be.at.most(ENTRY_LIMIT);
  for (const [index, { iova, size, pins, dirty }] of mappings.entries()) {
    expect(size).to.be.greaterThan(0);
    const next = mappings[index + 1];
    if (next) expect(next.iova, 'no overlap').to.be.at.least(iova + size);
    for (const page of pins.pages())
      expect(page >= iova && page < iova + size, 'pins inside the mapping').to.equal(true);
    expect(dirty !== undefined).to.equal(iommu.tracking);
  }
  const pinned = mappings.reduce((sum, { pins }) => sum + pins.size, 0);
  expect(memory.locked, 'locked pages').to.equal(pinned);
}

describe('random VFIO calls', () => {
  for (const v2 of [true, false])
    it(`keep correct pin counts and separate mappings, type1 ${v2 ? 'v2' : 'v1'}`, () => {
      fc.assert(
        fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
          const state = rig(v2);
          for (const run of operations) {
            try {
              run(state);
            } catch (error) {
              if (!(error instanceof VfioError)) throw error;
            }
            checkInvariants(state);
          }
          state.iommu.release();
          expect(state.iommu.mappings.size).to.equal(0);
        }),
        { numRuns: 200 },
      );
    });
});
