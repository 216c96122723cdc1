/**
 * The invalidation queue of the VT-d model.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vtd from '../../src/abi/vtd.ts';
import {
  invalidatePage,
  LOWER,
  LOWEST,
  MIDDLE,
  RING,
  STATUS,
  TOP,
  TRANSLATED,
  VtdRig,
  waitDescriptor,
  write64,
} from '../fixtures/vtd-rig.ts';

describe('VT-d invalidation queue', () => {
  it('writes the status word only after the unmaps before it are complete', async () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.pte(0x5000, 0);
    rig.notifier.hold();
    const done = rig.submit(invalidatePage(0x5000), waitDescriptor(9));
    expect(rig.ram.read32(STATUS)).to.equal(0);
    expect(rig.read(vtd.IQH_REG, 8)).to.equal(0n);
    rig.notifier.release();
    await done;
    expect(rig.ram.read32(STATUS)).to.equal(9);
    expect(rig.read(vtd.IQH_REG, 8)).to.equal(0x20n);
    expect(rig.held()).to.deep.equal([]);
  });

  it('accepts a tail write during its work, without a second processing loop', async () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.pte(0x5000, 0);
    rig.notifier.hold();
    const first = rig.submit(invalidatePage(0x5000), waitDescriptor(1));
    const second = rig.submit(invalidatePage(0x5000), waitDescriptor(2));
    expect(rig.iommu.counters.invalidations).to.equal(1);
    rig.notifier.release();
    await Promise.all([first, second]);
    expect(rig.ram.read32(STATUS)).to.equal(2);
    expect(rig.iommu.counters.invalidations).to.equal(2);
    expect(rig.read(vtd.IQH_REG, 8)).to.equal(0x40n);
  });

  it('affects only the devices of the domain', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.pte(0x5000, 0);
    rig.submit(invalidatePage(0x5000, 8), [0x22 + 6 * 65536, 0, 0, 0]);
    expect(rig.held()).to.deep.equal(TRANSLATED);
    rig.submit([0x22 + 7 * 65536, 0, 0, 0]);
    expect(rig.held()).to.deep.equal([]);
  });

  it('yields to other tasks after much work', async () => {
    const rig = new VtdRig();
    rig.enableQueue();
    // Every walk has the maximum length and finds nothing, because the lowest entries have a reserved bit.
    for (const table of [TOP, MIDDLE, LOWER])
      for (let i = 0; i < 512; i++) write64(rig.ram, table + i * 8, table + 4096 + 3);
    for (let i = 0; i < 512; i++) write64(rig.ram, LOWEST + i * 8, 0x800 + 3);
    const global = [0x12, 0, 0, 0];
    const done = rig.submit(global, global, waitDescriptor(1));
    expect(rig.read(vtd.IQH_REG, 8)).to.equal(0x10n);
    await done;
    expect(rig.ram.read32(STATUS)).to.equal(1);
    expect(rig.iommu.counters.truncatedWalks).to.equal(2);
  });

  it('stops at an invalid descriptor with IQE, and continues when software clears it', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.submit(waitDescriptor(1), [0, 0, 0, 0], waitDescriptor(2));
    expect(rig.read(vtd.FSTS_REG)).to.equal(BigInt(vtd.FSTS_IQE));
    expect(rig.read(vtd.IQH_REG, 8)).to.equal(0x10n);
    expect(rig.ram.read32(STATUS)).to.equal(1);
    rig.ram.write32(RING + 0x10, 0x11);
    rig.iommu.writeRegister(vtd.FSTS_REG, 4, BigInt(vtd.FSTS_IQE));
    expect(rig.ram.read32(STATUS)).to.equal(2);
    expect(rig.read(vtd.FSTS_REG)).to.equal(0n);
  });

  it('passes a wait descriptor with the fence flag alone; one without any flag is invalid', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.submit([vtd.QI_WAIT | vtd.WAIT_FN, 0, 0, 0], waitDescriptor(1));
    expect([rig.read(vtd.FSTS_REG), rig.ram.read32(STATUS)]).to.deep.equal([0n, 1]);
    rig.submit([vtd.QI_WAIT, 0, 0, 0], waitDescriptor(2));
    expect([rig.read(vtd.FSTS_REG), rig.ram.read32(STATUS)]).to.deep.equal([BigInt(vtd.FSTS_IQE), 1]);
  });

  it('reports register invalidations as ignored while the queue is enabled', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.iommu.writeRegister(vtd.CCMD_REG, 8, vtd.CCMD.ICC | (1n << vtd.CCMD.CIRG_SHIFT));
    expect(rig.read(vtd.CCMD_REG, 8)).to.equal(1n << vtd.CCMD.CIRG_SHIFT);
    expect(rig.iommu.counters.invalidations).to.equal(0);
  });

  it('clears ICC and IVT only when the invalidation is complete', async () => {
    const rig = new VtdRig();
    rig.enable();
    rig.pte(0x5000, 0);
    rig.notifier.hold();
    rig.iommu.writeRegister(vtd.IVA_REG, 8, 0x5000n);
    const done = rig.iommu.writeRegister(
      vtd.IOTLB_REG,
      8,
      vtd.IOTLB.IVT | (3n << vtd.IOTLB.IIRG_SHIFT) | (7n << vtd.IOTLB.DID_SHIFT),
    );
    expect(rig.read(vtd.IOTLB_REG, 8) & vtd.IOTLB.IVT).to.equal(vtd.IOTLB.IVT);
    rig.notifier.release();
    await done;
    expect(rig.read(vtd.IOTLB_REG, 8) & vtd.IOTLB.IVT).to.equal(0n);
    expect(rig.held()).to.deep.equal([]);
  });
});
