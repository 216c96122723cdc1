/**
 * Scalable mode of the VT-d model by registers and tables, and its differences with quirks: 'qemu'.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vtd from '../../src/abi/vtd.ts';
import type { Iova } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import type { Translation } from '../../src/viommu/notifier.ts';
import { IntelIommu, type IntelIommuOptions } from '../../src/viommu/vtd/iommu.ts';
import { RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const DEVICE = 0x0008;
const DOMAIN = 5;
const [ROOT, CONTEXTS, DIRECTORY, PASIDS, QUEUE] = [0x10000, 0x11000, 0x12000, 0x13000, 0x14000] as const;
/** Writes four levels that map IOVA page 1 to PAGE. */
const [L4, L3, L2, L1, PAGE] = [0x20000, 0x21000, 0x22000, 0x23000, 0x80000] as const;
const LEAF = L1 + 8;
const IOVA = 0x1000 as Iova;

const FIRST = 0x49n;
const PASS_THROUGH = 0x109n;

function put(ram: GuestRam, gpa: number, value: bigint): void {
  ram.write32(gpa + 4, Number(value >> 32n));
  ram.write32(gpa, Number(value & 0xffffffffn));
}

interface Unit {
  readonly ram: GuestRam;
  readonly iommu: IntelIommu;
  readonly notifier: RecordingNotifier;
  readonly space: DeviceAddressSpace;
  /** Queues 256-bit descriptors, passed as their lower two quadwords. */
  submit(...descriptors: readonly (readonly [bigint, bigint])[]): void;
  lastFault(): number;
}

/** A translating unit whose device has first-stage tables. */
function unit(options: Partial<IntelIommuOptions> = {}): Unit {
  const ram = smallRam();
  put(ram, ROOT, BigInt(CONTEXTS) | 1n);
  put(ram, CONTEXTS + DEVICE * 32, BigInt(DIRECTORY) | 1n);
  put(ram, DIRECTORY, BigInt(PASIDS) | 1n);
  put(ram, PASIDS + 8, BigInt(DOMAIN));
  put(ram, PASIDS + 16, BigInt(L4));
  put(ram, PASIDS, FIRST);
  for (const [table, next] of [
    [L4, L3],
    [L3, L2],
    [L2, L1],
    [LEAF, PAGE],
  ] as const)
    put(ram, table, BigInt(next) | 7n);
  const iommu = new IntelIommu({
    ...{ ram, awBits: 48, cachingMode: true, scalable: true, firstStage: true },
    ...options,
  });
  const notifier = new RecordingNotifier(ram);
  const space = new DeviceAddressSpace(DEVICE, notifier, ram.regions);
  iommu.attach(space);
  iommu.writeRegister(vtd.RTADDR_REG, 8, BigInt(ROOT) | vtd.RTADDR_TTM_SCALABLE);
  iommu.writeRegister(vtd.IQA_REG, 8, BigInt(QUEUE) | vtd.IQA_DW);
  iommu.writeRegister(vtd.GCMD_REG, 4, BigInt(vtd.GCMD_TE + vtd.GCMD_SRTP + vtd.GCMD_QIE));
  let tail = 0;
  return {
    ...{ ram, iommu, notifier, space },
    submit(...descriptors) {
      for (const [low, high] of descriptors) {
        put(ram, QUEUE + tail, low);
        put(ram, QUEUE + tail + 8, high);
        tail += vtd.QI_WIDE_DESCRIPTOR_BYTES;
      }
      iommu.writeRegister(vtd.IQT_REG, 8, BigInt(tail));
    },
    lastFault() {
      const high = iommu.readRegister(vtd.FRCD_HI_REG, 8);
      iommu.writeRegister(vtd.FRCD_HI_REG, 8, vtd.FRCD.F);
      return (high & vtd.FRCD.F) === 0n ? 0 : Number((high >> vtd.FRCD.REASON_SHIFT) & 0xffn);
    },
  };
}

const pasidCache = (domainId: number): [bigint, bigint] => [BigInt(domainId << 16) | 0x17n, 0n];
const piotlb = (domainId: number, pasid = 0n): [bigint, bigint] => [
  (pasid << 32n) | BigInt(domainId << 16) | 0x26n,
  0n,
];
const CONTEXT_GLOBAL: [bigint, bigint] = [0x11n, 0n];

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
