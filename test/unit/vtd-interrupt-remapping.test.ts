/**
 * VT-d's interrupt remapping: the entry cache, and what recorded vectors do not show.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vtd from '../../src/abi/vtd.ts';
import { VtdRig, waitDescriptor } from '../fixtures/vtd-rig.ts';

const TABLE = 0x40000;
const DEVICE = 0x20;

/** Address of a message with handle `index`. */
const messageOf = (index: number): number => 0xfee0_0010 + (index << 5);
const invalidateEntries = (index: number, mask: number): number[] => [0x14 + mask * 2 ** 27, index, 0, 0];
const INVALIDATE_ALL = [0x04, 0, 0, 0];

class InterruptRig extends VtdRig {
  constructor() {
    super();
    this.enableQueue();
    this.iommu.writeRegister(vtd.IRTA_REG, 8, BigInt(TABLE) | 7n);
    const on = vtd.GCMD_QIE | vtd.GCMD_SIRTP;
    this.iommu.writeRegister(vtd.GCMD_REG, 4, BigInt(on >>> 0));
    this.iommu.writeRegister(vtd.GCMD_REG, 4, BigInt((vtd.GCMD_QIE | vtd.GCMD_IRE) >>> 0));
  }

  /** Writes an entry with this vector, or one that is not present. */
  entry(index: number, vector?: number): void {
    this.ram.write32(TABLE + 16 * index, vector === undefined ? 0 : (vector << 16) | 1);
  }

  /** Returns the vector that leaves the unit, or the fault reason as a negative number. */
  send(index: number): number {
    const answer = this.iommu.remapInterrupt(DEVICE, messageOf(index), 0);
    return answer.kind === 'delivered' ? answer.vector : -answer.reason;
  }
}

describe('VT-d interrupt remapping', () => {
  it('uses a cached entry until an invalidation names it', () => {
    const rig = new InterruptRig();
    for (let index = 0; index < 8; index++) rig.entry(index, 0x40 + index);
    const sent = () => Array.from({ length: 8 }, (_, index) => rig.send(index));
    const before = sent();
    expect(before).to.deep.equal([0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47]);
    for (let index = 0; index < 8; index++) rig.entry(index);
    expect(sent()).to.deep.equal(before);
    rig.submit(invalidateEntries(5, 0));
    const absent = -vtd.FAULT.IRTE_NOT_PRESENT;
    expect(sent()).to.deep.equal([0x40, 0x41, 0x42, 0x43, 0x44, absent, 0x46, 0x47]);
    rig.submit(invalidateEntries(3, 1));
    expect(sent()).to.deep.equal([0x40, 0x41, absent, absent, 0x44, absent, 0x46, 0x47]);
    rig.submit(INVALIDATE_ALL, waitDescriptor(1));
    expect(new Set(sent())).to.deep.equal(new Set([absent]));
    expect(rig.iommu.interruptCounters).to.include({ remapped: 8 + 8 + 7 + 5, invalidated: 8 });
  });

  it('caches no entry that is not present, and forgets all with a new table', () => {
    const rig = new InterruptRig();
    expect(rig.send(1)).to.equal(-vtd.FAULT.IRTE_NOT_PRESENT);
    rig.entry(1, 0x51);
    expect(rig.send(1)).to.equal(0x51);
    rig.entry(1, 0x52);
    rig.iommu.writeRegister(vtd.GCMD_REG, 4, BigInt((vtd.GCMD_QIE | vtd.GCMD_IRE | vtd.GCMD_SIRTP) >>> 0));
    expect(rig.send(1)).to.equal(0x52);
  });

  it('bounds its cache', () => {
    const rig = new InterruptRig();
    rig.iommu.writeRegister(vtd.IRTA_REG, 8, BigInt(TABLE) | 0xfn);
    rig.iommu.writeRegister(vtd.GCMD_REG, 4, BigInt((vtd.GCMD_QIE | vtd.GCMD_IRE | vtd.GCMD_SIRTP) >>> 0));
    for (let index = 0; index < 3000; index++) rig.entry(index, 0x60);
    for (let index = 0; index < 3000; index++) expect(rig.send(index)).to.equal(0x60);
    rig.submit(INVALIDATE_ALL);
    expect(rig.iommu.interruptCounters.invalidated).to.be.within(1, 1024);
  });

  it('keeps the table, IRE and CFI over a move to another host', () => {
    const rig = new InterruptRig();
    rig.entry(1, 0x51);
    const flags = (vtd.GCMD_QIE | vtd.GCMD_IRE | vtd.GCMD_CFI) >>> 0;
    rig.iommu.writeRegister(vtd.GCMD_REG, 4, BigInt(flags));
    rig.iommu.writeRegister(vtd.IRTA_REG, 8, 0x7777_0000n);
    const target = new VtdRig();
    target.iommu.detach(DEVICE);
    target.ram.write(0, rig.ram.read(0, 2 ** 20));
    target.iommu.restore(rig.iommu.save());
    expect(target.iommu.remapsInterrupts).to.equal(true);
    for (const { iommu } of [rig, target]) {
      expect(iommu.remapInterrupt(DEVICE, messageOf(1), 0)).to.include({ kind: 'delivered', vector: 0x51 });
      expect(iommu.remapInterrupt(DEVICE, 0xfee0_1000, 0x41)).to.include({ remapped: false, vector: 0x41 });
    }
  });
});
