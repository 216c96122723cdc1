/**
 * Scalable mode of the VT-d model by registers and tables, and its differences with quirks: 'qemu'.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vtd from '../../src/abi/vtd.ts';
import type { Iova } from '../../src/memory/address.ts';
import type { Translation } from '../../src/viommu/notifier.ts';
import {
  CONTEXT_GLOBAL,
  CONTEXTS,
  DEVICE,
  DIRECTORY,
  DOMAIN,
  FIRST,
  IOVA,
  L2,
  L3,
  L4,
  LEAF,
  PAGE,
  PASIDS,
  PASS_THROUGH,
  pasidCache,
  piotlb,
  put,
  QUEUE,
  ROOT,
  type Unit,
  unit,
} from '../fixtures/vtd-scalable-rig.ts';

describe('VT-d scalable mode', () => {
  it('maps first-stage leaves, and sets A and D only at translated accesses', () => {
    const { ram, iommu, notifier } = unit();
    expect(notifier.mappings).to.deep.equal([{ iova: 0x1000, gpa: PAGE, size: 4096, perm: 3 }]);
    expect(ram.read32(LEAF) & (vtd.FS_A | vtd.FS_D)).to.equal(0);
    iommu.translate(DEVICE, IOVA, false);
    expect([L4, L3, L2, LEAF].map((entry) => ram.read32(entry) & 0x60)).to.deep.equal([
      0x20, 0x20, 0x20, 0x20,
    ]);
    iommu.translate(DEVICE, IOVA, true);
    expect([L4, LEAF].map((entry) => ram.read32(entry) & 0x60)).to.deep.equal([0x20, 0x60]);
  });

  it('does not take PAT (bit 12) of a large first-stage leaf for an address bit', () => {
    // P, R/W, U/S, A, PS and PAT. The leaf of 1 GiB maps GPA 0, where the RAM begins.
    for (const [entry, leaf, iova, gpa] of [
      [L2, 0x2010a7, 0x3000, 0x203000],
      [L3, 0x10a7, 0x203000, 0x203000],
    ] as const) {
      const { ram, iommu, notifier, submit } = unit();
      put(ram, entry, BigInt(leaf));
      submit(piotlb(DOMAIN));
      expect(iommu.translate(DEVICE, iova as Iova, true)).to.include({ ok: true, gpa });
      expect(notifier.mappings).to.have.length(1);
      const [{ iova: start, gpa: target }] = notifier.mappings as [Translation];
      expect(target + (iova - start)).to.equal(gpa);
    }
  });

  it('applies PASID-based invalidations to the devices of their domain and PASID', () => {
    const { ram, notifier, submit } = unit();
    ram.write32(LEAF, 0);
    submit(piotlb(DOMAIN + 1), piotlb(DOMAIN, 1n), [0x10036n | BigInt(DOMAIN << 16), 0x5000n]);
    expect(notifier.mappings).to.have.length(1);
    submit([0x36n | BigInt(DOMAIN << 16), 0x1000n]);
    expect(notifier.mappings).to.have.length(0);
  });

  it('reads a PASID entry again after its removal and return with a new domain', () => {
    const { ram, space, submit, iommu } = unit();
    ram.write32(PASIDS, 0);
    submit(pasidCache(DOMAIN + 1));
    expect(space.kind).to.equal('iommu');
    submit(pasidCache(DOMAIN));
    expect(space.kind).to.equal('blocked');
    put(ram, PASIDS + 8, BigInt(DOMAIN + 2));
    put(ram, PASIDS, PASS_THROUGH);
    submit(pasidCache(DOMAIN + 2));
    expect(space.kind).to.equal('system');
    expect(iommu.domainOf(DEVICE)).to.equal(DOMAIN + 2);
  });

  it('hides faults of the tables by FPD, not faults before them', () => {
    for (const entry of [CONTEXTS + DEVICE * 32, DIRECTORY, PASIDS]) {
      const { ram, iommu, lastFault } = unit();
      ram.write32(entry, ram.read32(entry) | 2);
      expect(iommu.translate(DEVICE, 0x5000 as Iova, false)).to.include({ reason: vtd.FAULT.FS_NOT_PRESENT });
      expect(lastFault()).to.equal(0);
      ram.write32(ROOT, 0);
      iommu.translate(DEVICE, IOVA, false);
      expect(lastFault()).to.equal(vtd.FAULT.ROOT_NOT_PRESENT);
    }
  });

  it('translates the canonical upper half at page granularity', () => {
    const { ram, iommu } = unit();
    put(ram, L4 + 511 * 8, BigInt(L3) | 7n);
    expect(iommu.translate(DEVICE, (2 ** 64 - 2 ** 39 + 0x1000) as Iova, true)).to.include({
      ok: true,
      gpa: PAGE,
    });
    expect(iommu.translate(DEVICE, (2 ** 47) as Iova, true)).to.include({
      reason: vtd.FAULT.FS_NON_CANONICAL,
    });
  });

  it('ignores TTM and has no DW in a unit without scalable mode', () => {
    const { iommu } = unit({ scalable: false, firstStage: false });
    expect(iommu.readRegister(vtd.IQA_REG, 8)).to.equal(BigInt(QUEUE));
    // The unit reads the same tables in legacy format.
    expect(iommu.translate(DEVICE, IOVA, false)).to.include({ reason: vtd.FAULT.CONTEXT_NOT_PRESENT });
  });
});

describe("VT-d with quirks: 'qemu'", () => {
  const both = (): [Unit, Unit] => [unit(), unit({ quirks: 'qemu' })];

  it('reports a zero PASID entry as invalid, not as absent', () => {
    const reasons = both().map(({ ram, iommu, lastFault }) => {
      ram.write32(PASIDS, 0);
      iommu.translate(DEVICE, IOVA, false);
      return lastFault();
    });
    expect(reasons).to.deep.equal([vtd.FAULT.PASID_NOT_PRESENT, vtd.FAULT.PASID_INVALID]);
  });

  it('sets no D for a cached translation, and refuses without a record', () => {
    const seen = both().map(({ ram, iommu, lastFault }) => {
      iommu.translate(DEVICE, IOVA, false);
      iommu.translate(DEVICE, IOVA, true);
      const dirty = ram.read32(LEAF) & vtd.FS_D;
      ram.write32(LEAF, PAGE | 5);
      iommu.writeRegister(vtd.GCMD_REG, 4, BigInt(vtd.GCMD_QIE));
      iommu.writeRegister(vtd.GCMD_REG, 4, BigInt(vtd.GCMD_TE + vtd.GCMD_QIE));
      iommu.translate(DEVICE, IOVA, false);
      expect(iommu.translate(DEVICE, IOVA, true).ok).to.equal(false);
      return [dirty, lastFault()];
    });
    expect(seen).to.deep.equal([
      [vtd.FS_D, vtd.FAULT.FS_WRITE],
      [0, 0],
    ]);
  });

  it('ends pass-through at a context-cache invalidation, and ignores P until then', () => {
    const seen = both().map(({ ram, iommu, submit }) => {
      put(ram, PASIDS, PASS_THROUGH);
      submit(pasidCache(DOMAIN));
      iommu.translate(DEVICE, IOVA, false);
      put(ram, PASIDS, FIRST);
      submit(pasidCache(DOMAIN), piotlb(DOMAIN));
      const before = iommu.translate(DEVICE, IOVA, false);
      submit(CONTEXT_GLOBAL);
      const after = iommu.translate(DEVICE, IOVA, false);
      ram.write32(PASIDS, Number(FIRST) - 1);
      submit(pasidCache(DOMAIN), piotlb(DOMAIN));
      return [before, after, iommu.translate(DEVICE, IOVA, false)].map((result) => result.ok && result.gpa);
    });
    expect(seen).to.deep.equal([
      [PAGE, PAGE, false],
      [IOVA, PAGE, PAGE],
    ]);
  });

  it('disables the queue only after a wait, and keeps its position in the register', () => {
    const seen = both().map(({ iommu, submit }) => {
      submit(CONTEXT_GLOBAL);
      iommu.writeRegister(vtd.GCMD_REG, 4, 0n);
      const enabled = (iommu.readRegister(vtd.GSTS_REG, 4) & BigInt(vtd.GCMD_QIE)) !== 0n;
      submit([0x15n, 0n]);
      iommu.writeRegister(vtd.GCMD_REG, 4, 0n);
      iommu.writeRegister(vtd.IQA_REG, 8, 0x30000n);
      return [enabled, iommu.readRegister(vtd.GSTS_REG, 4), iommu.readRegister(vtd.IQA_REG, 8)];
    });
    const rest = BigInt(vtd.GCMD_SRTP);
    expect(seen).to.deep.equal([
      [false, rest, 0x30000n],
      [true, rest, BigInt(QUEUE)],
    ]);
  });
});
