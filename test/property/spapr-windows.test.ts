/**
 * Random hypercalls and RTAS calls. A device's container always holds the live TCEs of its bridge, which the test
 * computes entry by entry from the windows and RAM.
 */

import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import * as spapr from '../../src/abi/spapr.ts';
import { BUID_HI, BUID_LO } from '../../src/abi/spapr-host-bridges.ts';
import { MappingRecord } from '../../src/conformance/mapping-record.ts';
import type { Iova } from '../../src/memory/address.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import type { Quirks } from '../../src/viommu/quirks.ts';
import { SpaprIommu } from '../../src/viommu/spapr/iommu.ts';
import { smallRam } from '../fixtures/recording-notifier.ts';

const DEVICE = 8;
const RAM = smallRam();
const LIST = 0x1000;
const LIVE_LIMIT = 3000;
const UNIT = [0, BUID_HI, BUID_LO];

type Call = (iommu: SpaprIommu) => unknown;

const liobn = fc.constantFrom(0x8000_0000n, 0x8000_0000n, 0x8000_0001n, 0x8000_0001n, 0x8000_0002n);
const tce = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(fc.nat(0x1fff), fc.nat(3)).map(([page, perm]) => BigInt(page * 4096 + perm)),
  },
  { weight: 2, arbitrary: fc.constant(0n) },
  { weight: 1, arbitrary: fc.bigInt(0n, 2n ** 64n - 1n) },
);
/** Addresses near the start and end of every possible window, and anywhere. */
const ioba = fc.oneof(
  { weight: 4, arbitrary: fc.nat(0x20_0000).map(BigInt) },
  { weight: 4, arbitrary: fc.nat(0x200_0000).map((offset) => 2n ** 59n + BigInt(offset)) },
  { weight: 1, arbitrary: fc.nat(0x3000).map((offset) => 0x3fff_e000n + BigInt(offset)) },
  { weight: 1, arbitrary: fc.bigInt(0n, 2n ** 64n - 1n) },
);
const count = fc.oneof(fc.nat(16).map(BigInt), fc.nat(600).map(BigInt));

const call: fc.Arbitrary<Call> = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(liobn, ioba, tce).map((args) => hypercall(spapr.H_PUT_TCE, args)) },
  {
    weight: 4,
    arbitrary: fc.tuple(liobn, ioba, tce, count).map((args) => hypercall(spapr.H_STUFF_TCE, args)),
  },
  {
    weight: 4,
    arbitrary: fc.tuple(liobn, ioba, fc.array(tce, { maxLength: 20 })).map(
      ([table, address, tces]): Call =>
        (iommu) => {
          const list = Buffer.alloc(4096);
          tces.forEach((value, i) => {
            list.writeBigUInt64BE(value, 8 * i);
          });
          RAM.write(LIST, list);
          return iommu.hypercall(spapr.H_PUT_TCE_INDIRECT, [
            table,
            address,
            BigInt(LIST),
            BigInt(tces.length),
          ]);
        },
    ),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(fc.constantFrom(12, 16, 21, 24), fc.integer({ min: 12, max: 30 }))
      .map(([page, window]) => rtas(spapr.CREATE_PE_DMA_WINDOW, [...UNIT, page, window], 4)),
  },
  { weight: 2, arbitrary: liobn.map((table) => rtas(spapr.REMOVE_PE_DMA_WINDOW, [Number(table)], 1)) },
  { weight: 1, arbitrary: fc.constant(rtas(spapr.RESET_PE_DMA_WINDOW, [], 1)) },
  {
    weight: 1,
    arbitrary: fc.constant(rtas(spapr.RESET_PE_DMA_WINDOW, [0, BUID_HI, BUID_LO], 1)),
  },
);

const shift = fc.constantFrom(12, 16, 21, 24);
/** Creates two windows of any page sizes. They have the same address in QEMU, and separate ones in LoPAR. */
const overlap: fc.Arbitrary<Call[]> = fc
  .tuple(shift, fc.nat(8), shift, fc.nat(8))
  .map(([first, firstBits, second, secondBits]) => [
    rtas(spapr.CREATE_PE_DMA_WINDOW, [...UNIT, first, first + firstBits], 4),
    rtas(spapr.REMOVE_PE_DMA_WINDOW, [0x8000_0000], 1),
    rtas(spapr.CREATE_PE_DMA_WINDOW, [...UNIT, second, second + secondBits], 4),
  ]);
const calls = fc
  .tuple(fc.oneof(fc.constant<Call[]>([]), overlap), fc.array(call, { minLength: 1, maxLength: 40 }))
  .map(([first, rest]) => [...first, ...rest]);

function hypercall(opcode: number, args: readonly bigint[]): Call {
  return (iommu) => iommu.hypercall(opcode, args);
}

function rtas(name: string, args: readonly number[], results: number): Call {
  return (iommu) => iommu.rtas(name, args, results);
}

/** Returns every 4 KiB page of bus addresses that the live TCEs map, as `page→gpa perm`. */
function expectedPages(iommu: SpaprIommu): Set<string> {
  const pages = new Map<number, string>();
  // In slot order: of two overlapping windows, the second hides the first, even where it maps nothing.
  for (const window of iommu.bridges[0]?.windows ?? []) {
    for (const page of [...pages.keys()]) if (window.covers(page)) pages.delete(page);
    for (let index = 0, seen = 0; seen < window.live && index < window.entries; index++) {
      const raw = window.get(index);
      if (raw === 0n) continue;
      seen++;
      const size = BigInt(window.pageSize);
      for (let offset = 0n; offset < size; offset += 4096n) {
        const gpa = Number((raw / size) * size + offset);
        if ((raw & 3n) !== 0n && RAM.contains(gpa, 4096))
          pages.set(window.addressOf(index) + Number(offset), `${gpa} ${raw & 3n}`);
      }
    }
  }
  return new Set([...pages].map(([page, meaning]) => `${page}→${meaning}`));
}

function heldPages(record: MappingRecord): Set<string> {
  const pages = new Set<string>();
  record.forEachMapping(0, 2 ** 64, (iova, gpa, size, perm) => {
    for (let offset = 0; offset < size; offset += 4096) pages.add(`${iova + offset}→${gpa + offset} ${perm}`);
  });
  return pages;
}

for (const quirks of ['spec', 'qemu'] as const satisfies readonly Quirks[])
  describe(`sPAPR container after random calls, quirks ${quirks}`, () => {
    it('holds exactly the live TCEs after every call', () => {
      fc.assert(
        fc.property(calls, (sequence) => {
          const iommu = new SpaprIommu({ ram: RAM, quirks, liveTceLimit: LIVE_LIMIT });
          const record = new MappingRecord(RAM);
          const space = new DeviceAddressSpace(DEVICE, record, RAM.regions);
          void iommu.attach(space);
          for (const make of sequence) {
            expect(make(iommu), 'no promise').not.to.be.a('promise');
            expect(iommu.liveTces).to.equal(
              iommu.bridges[0]?.windows.reduce((sum, window) => sum + window.live, 0),
            );
            expect(iommu.liveTces).to.be.at.most(LIVE_LIMIT);
          }
          expect([...heldPages(record)].sort()).to.deep.equal([...expectedPages(iommu)].sort());
          expect(space.audit()).to.deep.equal([]);
          for (const text of heldPages(record)) {
            const [page, meaning] = text.split('→') as [string, string];
            const [gpa, perm] = meaning.split(' ').map(Number) as [number, number];
            const answer = iommu.translate(DEVICE, Number(page) as Iova, (perm & 2) !== 0);
            expect(answer).to.deep.equal({ ok: true, gpa, perm });
          }
        }),
        { numRuns: 100 },
      );
    });
  });
