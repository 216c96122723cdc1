/**
 * The VT-d model with hand-written tables: switches, IOTLB, faults and table walks.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vtd from '../../src/abi/vtd.ts';
import type { Iova } from '../../src/memory/address.ts';
import { gpa, hex, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { PENDING_COMMAND_LIMIT } from '../../src/viommu/command-serial.ts';
import { WALK_ENTRY_LIMIT } from '../../src/viommu/vtd/page-tables.ts';
import { SecondLevelFormat, SecondLevelTables } from '../../src/viommu/vtd/second-level.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';
import {
  CONTEXTS,
  DEVICE,
  IDENTITY,
  invalidatePage,
  LOWER,
  LOWEST,
  MIDDLE,
  TOP,
  TRANSLATED,
  VtdRig,
  write64,
} from '../fixtures/vtd-rig.ts';

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('VT-d translation switch', () => {
  it('maps system memory until TE, then the tables, then system memory again', () => {
    const rig = new VtdRig();
    expect(rig.held()).to.deep.equal(IDENTITY);
    rig.enable();
    expect(rig.held()).to.deep.equal(TRANSLATED);
    expect(rig.space.kind).to.equal('iommu');
    rig.iommu.writeRegister(vtd.GCMD_REG, 4, 0n);
    expect(rig.held()).to.deep.equal(IDENTITY);
  });

  it('follows a context entry only at a context-cache invalidation of its domain or device', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    rig.context(vtd.TT_PASS_THROUGH);
    rig.submit([0x21 + 8 * 65536, 0, 0, 0], [0x31, DEVICE + 1, 0, 0]);
    expect(rig.space.kind).to.equal('iommu');
    rig.submit([0x21 + 7 * 65536, 0, 0, 0]);
    expect(rig.held()).to.deep.equal(IDENTITY);
    rig.ram.write32(CONTEXTS + DEVICE * 16, 0);
    rig.submit([0x31, DEVICE + 1, 0, 0]);
    expect(rig.space.kind).to.equal('system');
    // FM = 1 leaves bit 2 of the function number out of the comparison.
    rig.submit([0x31, DEVICE + 4 + 0x10000, 0, 0]);
    expect(rig.space.kind).to.equal('blocked');
    expect(rig.held()).to.deep.equal([]);
  });

  it('reports TES and RTPS only when the old mappings are gone', async () => {
    const rig = new VtdRig();
    rig.notifier.hold();
    const enabled = rig.enable();
    expect(rig.read(vtd.GSTS_REG)).to.equal(0n);
    expect(rig.held()).to.deep.equal([]);
    rig.notifier.release();
    await enabled;
    expect(rig.read(vtd.GSTS_REG)).to.equal(0xc0000000n);
    expect(rig.held()).to.deep.equal(TRANSLATED);
  });

  it('executes commands in order while one is pending', async () => {
    const rig = new VtdRig();
    rig.notifier.hold();
    rig.enable();
    const last = rig.iommu.writeRegister(vtd.GCMD_REG, 4, 0n);
    rig.notifier.release();
    await last;
    expect(rig.read(vtd.GSTS_REG)).to.equal(BigInt(vtd.GCMD_SRTP));
    expect(rig.held()).to.deep.equal(IDENTITY);
  });

  it('drops and counts commands beyond the limit', async () => {
    const rig = new VtdRig();
    rig.notifier.hold();
    rig.enable();
    for (let i = 0; i < PENDING_COMMAND_LIMIT + 3; i++)
      rig.iommu.writeRegister(vtd.CCMD_REG, 8, 0xa0n << 56n);
    expect(rig.iommu.counters.droppedCommands).to.equal(3);
    rig.notifier.release();
    await turn();
    expect(rig.read(vtd.GSTS_REG)).to.equal(0xc0000000n);
  });

  it('changes only mappings that differ when a device moves to other tables', () => {
    const rig = new VtdRig();
    rig.pte(0x6000, 0x101000 + 3);
    rig.enableQueue();
    const other = 0x18000;
    for (const [i, table] of [TOP, MIDDLE, LOWER, LOWEST].entries())
      rig.ram.write(other + i * 4096, rig.ram.read(table, 4096));
    for (let i = 0; i < 3; i++) write64(rig.ram, other + i * 4096, other + (i + 1) * 4096 + 3);
    write64(rig.ram, other + 3 * 4096 + 6 * 8, 0x200000 + 1);
    write64(rig.ram, CONTEXTS + DEVICE * 16, other + 1);
    rig.notifier.log.length = 0;
    rig.submit([0x31, DEVICE, 0, 0]);
    expect(rig.notifier.log).to.deep.equal(['switchBegin', 'unmap 6000 4096', 'map 6000 4096', 'switchEnd']);
    expect(rig.space.audit()).to.deep.equal([]);
  });
});

describe('VT-d IOTLB', () => {
  const at = (rig: VtdRig, iova: number, write = false) => {
    const result = rig.iommu.translate(DEVICE, iova as Iova, write);
    return result.ok ? result.gpa : result.text;
  };

  it('serves an entry until an invalidation of it', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    expect(at(rig, 0x5008)).to.equal(0x100008);
    rig.pte(0x5000, 0x200000 + 3);
    expect(at(rig, 0x5010, true), 'not invalidated').to.equal(0x100010);
    rig.submit(invalidatePage(0x5000, 8), invalidatePage(0x6000), [0x22 + 8 * 65536, 0, 0, 0]);
    expect(at(rig, 0x5010), 'another domain, another page').to.equal(0x100010);
    expect(rig.iommu.iotlbCounters).to.deep.equal({ hits: 2, misses: 1, invalidated: 0 });
    for (const [i, named] of [
      invalidatePage(0x4000, 7, 1),
      [0x22 + 7 * 65536, 0, 0, 0],
      [0x12, 0, 0, 0],
    ].entries()) {
      rig.pte(0x5000, 0x300000 + 0x100000 * i + 3);
      rig.submit(named);
      expect(at(rig, 0x5010)).to.equal(0x300010 + 0x100000 * i);
    }
    expect(rig.iommu.iotlbCounters).to.deep.equal({ hits: 2, misses: 4, invalidated: 3 });
  });

  it('caches no fault, and walks again for a permission that an entry lacks', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    expect(at(rig, 0x7000)).to.equal('no read permission, or not mapped');
    rig.pte(0x7000, 0x100000 + PERM_READ);
    expect(at(rig, 0x7000)).to.equal(0x100000);
    rig.pte(0x7000, 0x100000 + 3);
    expect(at(rig, 0x7000, true)).to.equal(0x100000);
  });

  it('is tagged by domain, and is empty after a new root or TE', () => {
    const rig = new VtdRig();
    rig.enableQueue();
    at(rig, 0x5000);
    rig.context(vtd.TT_MULTI_LEVEL, 9);
    rig.pte(0x5000, 0x200000 + 3);
    expect(at(rig, 0x5000)).to.equal(0x200000);
    rig.pte(0x5000, 0x300000 + 3);
    rig.enable(vtd.GCMD_TE | vtd.GCMD_QIE);
    expect(at(rig, 0x5000)).to.equal(0x300000);
  });
});

describe('VT-d faults', () => {
  it('refuse the access, record it, and send the fault event', () => {
    const rig = new VtdRig();
    rig.enable();
    rig.iommu.writeRegister(vtd.FEDATA_REG, 4, 0x41n);
    rig.iommu.writeRegister(vtd.FEADDR_REG, 4, 0xfee01000n);
    rig.iommu.writeRegister(vtd.FECTL_REG, 4, 0n);
    rig.pte(0x7000, 0x100000 + PERM_READ);
    const result = rig.iommu.translate(DEVICE, 0x7008 as Iova, true);
    expect(result).to.deep.equal({ ok: false, reason: 5, text: 'no write permission' });
    expect(rig.faults).to.have.length(1);
    expect(rig.read(vtd.FRCD_LO_REG, 8)).to.equal(0x7000n);
    expect(rig.messages).to.deep.equal([[0xfee01000, 0x41]]);
    expect(rig.iommu.translate(DEVICE, 0x7008 as Iova, false)).to.deep.equal({
      ok: true,
      gpa: gpa(0x100008),
      perm: PERM_READ,
    });
  });

  it('hold a masked message, and send it at unmask', () => {
    const rig = new VtdRig();
    rig.enable();
    rig.iommu.translate(DEVICE, 0x9000 as Iova, false);
    expect(rig.messages).to.deep.equal([]);
    rig.iommu.writeRegister(vtd.FECTL_REG, 4, 0n);
    expect(rig.messages).to.have.length(1);
    expect(rig.read(vtd.FECTL_REG)).to.equal(0n);
  });

  it('are hidden from the registers by FPD if qualified, not from the emulator', () => {
    const rig = new VtdRig();
    write64(rig.ram, CONTEXTS + DEVICE * 16, TOP + vtd.CONTEXT_FPD + 1);
    rig.enable();
    rig.iommu.translate(DEVICE, 0x9000 as Iova, false);
    expect(rig.read(vtd.FSTS_REG)).to.equal(0n);
    expect(rig.faults).to.have.length(1);
  });

  it('refuse pass-through accesses beyond the address width, as specified', () => {
    const rig = new VtdRig();
    rig.context(vtd.TT_PASS_THROUGH);
    rig.enable();
    expect(rig.iommu.translate(DEVICE, (2 ** 48) as Iova, false)).to.include({ ok: false, reason: 4 });
    expect(rig.iommu.translate(DEVICE, (2 ** 48 - 4096) as Iova, false)).to.include({ ok: true });
  });
});

describe('VT-d table walk', () => {
  const tables = (ram: GuestRam, root: number, onWalked = (_entries: number) => {}) =>
    new SecondLevelTables(ram, root, 4, new SecondLevelFormat({ awBits: 48, cachingMode: true }), onWalked);

  it('ends within the limit in a table that points to itself', () => {
    const ram = smallRam();
    for (let i = 0; i < 512; i++) write64(ram, TOP + i * 8, TOP + 3);
    let leaves = 0;
    let visited = 0;
    tables(ram, TOP, (entries) => {
      visited += entries;
    }).walk(0, 2 ** 48, () => {
      leaves++;
    });
    expect(visited).to.equal(WALK_ENTRY_LIMIT + 1);
    expect(leaves).to.be.within(1, WALK_ENTRY_LIMIT);
  });

  it('excludes the interrupt range from a large page around it', () => {
    const ram = smallRam();
    write64(ram, TOP, MIDDLE + 3);
    write64(ram, MIDDLE + 3 * 8, LOWER + 3);
    write64(ram, LOWER + 0x1f7 * 8, 0x200000 + 0x83);
    const seen: string[] = [];
    tables(ram, TOP).walk(0, 2 ** 48, (iova, target, size) => {
      seen.push(`${hex(iova)}>${hex(target)}+${hex(size)}`);
    });
    expect(seen).to.deep.equal(['0xfef00000>0x300000+0x100000']);
    expect(tables(ram, TOP).leafAt(0xfee00000)).to.equal(undefined);
    expect(tables(ram, TOP).leafAt(0xfef01000)).to.deep.equal({
      iova: 0xfef00000,
      gpa: 0x300000,
      size: MIB,
      perm: PERM_RW,
    });
  });
});
