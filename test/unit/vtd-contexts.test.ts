/**
 * VT-d contexts that change in ways a usual driver avoids: what is read again, what is kept, what is refused.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vtd from '../../src/abi/vtd.ts';
import { type Gpa, type Iova, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { IntelIommu } from '../../src/viommu/vtd/iommu.ts';
import { Iotlb } from '../../src/viommu/vtd/iotlb.ts';
import { SecondLevelFormat, SecondLevelTables } from '../../src/viommu/vtd/second-level.ts';
import {
  CONTEXTS,
  DEVICE,
  invalidatePage,
  LOWER,
  STATUS,
  TOP,
  TRANSLATED,
  VtdRig,
  write64,
} from '../fixtures/vtd-rig.ts';
import * as scalable from '../fixtures/vtd-scalable-rig.ts';

const { unit, put, PAGE } = scalable;
const NEW_PAGE = 0x90000;
/** Reason of a fault by a reserved bit in a root entry: section 7.1.3. */
const { ROOT_RESERVED } = vtd.FAULT;

/** Translates a read; returns the GPA, or the reason of its fault. */
const read = (iommu: IntelIommu, device: number, iova: number): number => {
  const result = iommu.translate(device, iova as Iova, false);
  return result.ok ? result.gpa : -result.reason;
};

describe('invalidations in scalable mode', () => {
  it('of the contexts of one domain affect every device, because such contexts have no domain', () => {
    const { ram, space, submit } = unit();
    put(ram, scalable.PASIDS, scalable.PASS_THROUGH);
    submit([0x21n | (77n << 16n), 0n]);
    expect(space.kind).to.equal('system');
  });

  it('of one second-stage page drop all first-stage translations of the domain', () => {
    const { ram, iommu, notifier, submit } = unit();
    const page = (domain: number): [bigint, bigint] => [0x32n | (BigInt(domain) << 16n), 0x9000n];
    expect(read(iommu, scalable.DEVICE, scalable.IOVA)).to.equal(PAGE);
    put(ram, scalable.LEAF, BigInt(NEW_PAGE) | 7n);
    submit(page(scalable.DOMAIN + 1));
    expect(notifier.mappings[0]?.gpa, 'another domain').to.equal(PAGE);
    submit(page(scalable.DOMAIN));
    expect(notifier.mappings[0]?.gpa).to.equal(NEW_PAGE);
    expect(read(iommu, scalable.DEVICE, scalable.IOVA), 'not cached any more').to.equal(NEW_PAGE);
  });

  it('of one device end its pass-through (QEMU)', () => {
    const { ram, iommu, submit } = unit({ quirks: 'qemu' });
    put(ram, scalable.PASIDS, scalable.PASS_THROUGH);
    submit(scalable.CONTEXT_GLOBAL);
    expect(read(iommu, scalable.DEVICE, scalable.IOVA)).to.equal(scalable.IOVA);
    put(ram, scalable.PASIDS, scalable.FIRST);
    submit([0x31n | (BigInt(scalable.DEVICE + 1) << 32n), 0n]);
    expect(read(iommu, scalable.DEVICE, scalable.IOVA), 'another device').to.equal(scalable.IOVA);
    submit([0x31n | (BigInt(scalable.DEVICE) << 32n), 0n]);
    expect(read(iommu, scalable.DEVICE, scalable.IOVA)).to.equal(PAGE);
  });
});

describe('scalable-mode tables', () => {
  it('have the devices from 16 on in the upper half of a root entry', () => {
    const { ram, iommu } = unit();
    const upper = 0x15000;
    const [last, first] = [15 * 8 + 7, 16 * 8];
    put(ram, scalable.CONTEXTS + last * 32, BigInt(scalable.DIRECTORY) | 1n);
    expect(read(iommu, last, scalable.IOVA)).to.equal(PAGE);
    expect(read(iommu, first, scalable.IOVA)).to.equal(-vtd.FAULT.ROOT_NOT_PRESENT);
    put(ram, scalable.ROOT + 8, BigInt(upper) | 1n);
    put(ram, upper, BigInt(scalable.DIRECTORY) | 1n);
    expect(read(iommu, first, scalable.IOVA)).to.equal(PAGE);
  });

  it('have no reserved bit set in either half of a root entry', () => {
    const { ram, iommu } = unit();
    put(ram, scalable.ROOT + 8, 2n);
    expect(read(iommu, scalable.DEVICE, scalable.IOVA)).to.equal(-ROOT_RESERVED);
  });

  it('map no page of the supervisor', () => {
    const { ram, notifier, submit } = unit();
    put(ram, scalable.LEAF, BigInt(PAGE) | 3n);
    submit(scalable.piotlb(scalable.DOMAIN));
    expect(notifier.mappings).to.deep.equal([]);
  });
});

describe('contexts in legacy mode', () => {
  it('are read again with another count of levels below the same table', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    write64(rig.ram, CONTEXTS + DEVICE * 16 + 8, 7 * 256 + 1);
    rig.submit([0x31, DEVICE, 0, 0]);
    // The former table of 2 MiB entries is now that of the pages.
    expect(rig.held()).to.deep.equal(['0x0>0x15000+0x1000/3']);
  });

  it('are read again below a new root table, with the content of their tables', () => {
    const rig = new VtdRig();
    rig.enable();
    rig.pte(0x5000, 0x200000 + 3);
    expect(rig.held()).to.deep.equal(TRANSLATED);
    rig.enable();
    expect(rig.held(), 'the same tables, changed').to.deep.equal(['0x5000>0x200000+0x1000/3']);
    rig.iommu.writeRegister(vtd.RTADDR_REG, 8, BigInt(STATUS));
    expect(rig.space.kind, 'the register alone').to.equal('iommu');
    rig.iommu.writeRegister(vtd.GCMD_REG, 4, BigInt((vtd.GCMD_SRTP | vtd.GCMD_TE) >>> 0));
    expect([rig.space.kind, rig.held()]).to.deep.equal(['blocked', []]);
  });

  it('are not read below a root entry with reserved bits', () => {
    for (const word of [1, 2, 3].map((at) => 0x10000 + 4 * at)) {
      const rig = new VtdRig();
      rig.ram.write32(word, 0x8000_0000);
      rig.enable();
      expect([rig.space.kind, read(rig.iommu, DEVICE, 0x5000)]).to.deep.equal(['blocked', -ROOT_RESERVED]);
    }
  });

  it('are those of the root in use after a move, not of one that is only written', () => {
    const rig = new VtdRig();
    rig.enable();
    rig.iommu.writeRegister(vtd.RTADDR_REG, 8, BigInt(STATUS));
    const moved = new IntelIommu({ ram: rig.ram, awBits: 48, cachingMode: true });
    moved.restore(rig.iommu.save());
    expect(read(moved, DEVICE, 0x5000)).to.equal(0x100000);
  });
});

describe('a scalable-mode context entry with FPD', () => {
  it('hides a fault of its PASID entry from the registers', () => {
    const { ram, iommu, lastFault } = unit();
    const fault = () => {
      read(iommu, scalable.DEVICE, scalable.IOVA);
      return lastFault();
    };
    put(ram, scalable.PASIDS, 0n);
    expect(fault()).to.equal(vtd.FAULT.PASID_NOT_PRESENT);
    put(ram, scalable.CONTEXTS + scalable.DEVICE * 32, BigInt(scalable.DIRECTORY) | 3n);
    expect(fault()).to.equal(0);
  });
});

describe('a leaf that leads to the interrupt range', () => {
  it('is neither replayed nor translated', () => {
    const rig = new VtdRig();
    const tables = new SecondLevelTables(
      rig.ram,
      TOP,
      4,
      new SecondLevelFormat({ awBits: 48, cachingMode: true }),
    );
    for (const [iova, target] of [
      [0x5000, vtd.INTERRUPT_RANGE_START],
      [0x6000, vtd.INTERRUPT_RANGE_END - PAGE_SIZE],
      [0x7000, vtd.INTERRUPT_RANGE_END],
    ] as const)
      rig.pte(iova, target + 3);
    const found: number[] = [];
    tables.walk(0, 2 ** 48, (iova) => void found.push(iova));
    expect(found).to.deep.equal([0x7000]);
    expect(tables.leafAt(0x6000)).to.equal(undefined);
    expect(tables.translate(0x5000, false)).to.equal(vtd.FAULT.INTERRUPT_RANGE);
  });
});

describe('an invalidation of several pages', () => {
  it('begins at a multiple of its size, whatever page it names', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.pte(0x4000, 0x200000 + 3);
    rig.submit(invalidatePage(0x7000, 7, 2));
    expect(rig.held()).to.deep.equal(['0x4000>0x200000+0x1000/3', ...TRANSLATED]);
  });

  it('drops the cached leaf of 2 MiB around any of its pages', () => {
    const rig = new VtdRig();
    const large = (gpa: number) => write64(rig.ram, LOWER + 8, gpa + vtd.SL_PS + 3);
    large(0x200000);
    rig.enableQueue();
    expect(read(rig.iommu, DEVICE, 0x200000)).to.equal(0x200000);
    large(0x400000);
    rig.submit(invalidatePage(0x205000));
    expect(read(rig.iommu, DEVICE, 0x200000)).to.equal(0x400000);
  });
});

describe('cached translations', () => {
  it('serve only their own device, also where nothing else is compared (QEMU)', () => {
    const rig = new VtdRig({ quirks: 'qemu' });
    const other = DEVICE + 1;
    const at = (at: number) => 0x18000 + at * PAGE_SIZE;
    write64(rig.ram, CONTEXTS + other * 16, at(0) + 1);
    write64(rig.ram, CONTEXTS + other * 16 + 8, 9 * 256 + 2);
    for (let i = 0; i < 3; i++) write64(rig.ram, at(i), at(i + 1) + 3);
    write64(rig.ram, at(3) + 5 * 8, 0x200000 + 3);
    rig.enable();
    for (let round = 0; round < 2; round++)
      expect([read(rig.iommu, DEVICE, 0x5000), read(rig.iommu, other, 0x5000)]).to.deep.equal([
        0x100000, 0x200000,
      ]);
  });

  it('are dropped at their limit, and hold the next one', () => {
    const iotlb = new Iotlb();
    const insert = (page: number) =>
      iotlb.insert({
        ...{ iova: (page * PAGE_SIZE) as Iova, gpa: 0 as Gpa, size: PAGE_SIZE, perm: PERM_RW },
        ...{ requesterId: DEVICE, domainId: 7, stage: 2, written: false },
      });
    for (let page = 0; page < 1024; page++) insert(page);
    expect(iotlb.size).to.equal(1024);
    insert(0);
    insert(2000);
    expect(iotlb.size).to.be.below(1024);
    expect(iotlb.at(DEVICE, 2000 * PAGE_SIZE)).to.not.equal(undefined);
    expect(iotlb.at(DEVICE, 5 * PAGE_SIZE)).to.equal(undefined);
  });
});

describe('event messages', () => {
  it('are sent once for several faults, until software has serviced them', () => {
    const rig = new VtdRig();
    rig.enable();
    rig.iommu.writeRegister(vtd.FECTL_REG, 4, 0n);
    for (const device of [DEVICE, DEVICE + 1, DEVICE + 2]) read(rig.iommu, device, 0x9000);
    expect(rig.messages).to.have.length(1);
    rig.iommu.writeRegister(vtd.FRCD_HI_REG, 8, vtd.FRCD.F);
    rig.iommu.writeRegister(vtd.FSTS_REG, 4, BigInt(vtd.FSTS_PFO));
    read(rig.iommu, DEVICE, 0x9000);
    expect(rig.messages).to.have.length(2);
  });

  it('are sent once for several completed waits, until software has cleared IWC', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.iommu.writeRegister(vtd.IECTL_REG, 4, 0n);
    const wait = [0x15, 0, 0, 0];
    rig.submit(wait, wait);
    expect(rig.messages).to.have.length(1);
    rig.submit(wait);
    expect(rig.messages).to.have.length(1);
    rig.iommu.writeRegister(vtd.ICS_REG, 4, BigInt(vtd.ICS_IWC));
    rig.submit(wait);
    expect(rig.messages).to.have.length(2);
  });
});
