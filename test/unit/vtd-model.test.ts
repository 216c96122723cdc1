/**
 * VT-d model: registers, switching, tables and the invalidation queue, driven by hand-written tables.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as vtd from '../../src/abi/vtd.ts';
import type { Iova } from '../../src/memory/address.ts';
import { gpa, hex, PERM_READ, PERM_RW } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { PENDING_COMMAND_LIMIT } from '../../src/viommu/command-serial.ts';
import type { DmaFaultRecord } from '../../src/viommu/viommu.ts';
import { IntelIommu, type IntelIommuOptions } from '../../src/viommu/vtd/iommu.ts';
import { WALK_ENTRY_LIMIT } from '../../src/viommu/vtd/page-tables.ts';
import { SecondLevelFormat, SecondLevelTables } from '../../src/viommu/vtd/second-level.ts';
import { MIB, RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const ROOT = 0x10000;
const CONTEXTS = 0x11000;
const TOP = 0x12000;
const MIDDLE = 0x13000;
const LOWER = 0x14000;
const LOWEST = 0x15000;
const RING = 0x16000;
const STATUS = 0x17000;
const DEVICE = 0x20;

function write64(ram: GuestRam, at: number, value: number): void {
  ram.write32(at, value % 2 ** 32);
  ram.write32(at + 4, Math.floor(value / 2 ** 32));
}

/** One unit with one device; its context names domain 7, four levels, and maps IOVA 0x5000 to 0x100000. */
class Bench {
  readonly ram = smallRam();
  readonly messages: [number, number][] = [];
  readonly faults: DmaFaultRecord[] = [];
  readonly notifier = new RecordingNotifier(this.ram);
  readonly space = new DeviceAddressSpace(DEVICE, this.notifier, this.ram.regions);
  readonly iommu: IntelIommu;
  #tail = 0;

  constructor(options: Partial<IntelIommuOptions> = {}) {
    this.iommu = new IntelIommu({
      ram: this.ram,
      awBits: 48,
      cachingMode: true,
      raiseMsi: (address, data) => this.messages.push([address, data]),
      onFault: (record) => this.faults.push(record),
      ...options,
    });
    write64(this.ram, ROOT, CONTEXTS + 1);
    this.context(vtd.TT_MULTI_LEVEL);
    write64(this.ram, TOP, MIDDLE + 3);
    write64(this.ram, MIDDLE, LOWER + 3);
    write64(this.ram, LOWER, LOWEST + 3);
    this.pte(0x5000, 0x100000 + 3);
    this.iommu.attach(this.space);
  }

  context(type: number, domainId = 7): void {
    write64(this.ram, CONTEXTS + DEVICE * 16, TOP + type * 4 + 1);
    write64(this.ram, CONTEXTS + DEVICE * 16 + 8, domainId * 256 + 2);
  }

  pte(iova: number, value: number): void {
    write64(this.ram, LOWEST + (iova / 4096) * 8, value);
  }

  enable(bits = vtd.GCMD_TE): Promise<void> | undefined {
    this.iommu.writeRegister(vtd.RTADDR_REG, 8, BigInt(ROOT));
    return this.iommu.writeRegister(vtd.GCMD_REG, 4, BigInt((vtd.GCMD_SRTP | bits) >>> 0));
  }

  enableQueue(): void {
    this.iommu.writeRegister(vtd.IQA_REG, 8, BigInt(RING));
    this.enable(vtd.GCMD_TE | vtd.GCMD_QIE);
  }

  /** Writes descriptors at the tail and rings. */
  submit(...descriptors: readonly (readonly number[])[]): Promise<void> | undefined {
    for (const words of descriptors) {
      for (const [i, word] of words.entries()) this.ram.write32(RING + this.#tail + 4 * i, word);
      this.#tail = (this.#tail + 16) % 4096;
    }
    return this.iommu.writeRegister(vtd.IQT_REG, 8, BigInt(this.#tail));
  }

  read(offset: number, size: 4 | 8 = 4): bigint {
    return this.iommu.readRegister(offset, size);
  }

  held(): string[] {
    return this.notifier.mappings.map((m) => `${hex(m.iova)}>${hex(m.gpa)}+${hex(m.size)}/${m.perm}`);
  }
}

const IDENTITY = ['0x0>0x0+0x2000000/3'];
const TRANSLATED = ['0x5000>0x100000+0x1000/3'];
const page = (iova: number, domain = 7, mask = 0): number[] => [0x32 + domain * 65536, 0, iova + mask, 0];
const wait = (data: number): number[] => [0x25, data, STATUS, 0];
const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('VT-d model: switching', () => {
  it('gives system memory until TE, then the tables, then system memory again', () => {
    const bench = new Bench();
    expect(bench.held()).to.deep.equal(IDENTITY);
    bench.enable();
    expect(bench.held()).to.deep.equal(TRANSLATED);
    expect(bench.space.kind).to.equal('iommu');
    bench.iommu.writeRegister(vtd.GCMD_REG, 4, 0n);
    expect(bench.held()).to.deep.equal(IDENTITY);
  });

  it('follows a context entry only at a context-cache invalidation of its domain or device', () => {
    const bench = new Bench();
    bench.enableQueue();
    bench.context(vtd.TT_PASS_THROUGH);
    bench.submit([0x21 + 8 * 65536, 0, 0, 0], [0x31, DEVICE + 1, 0, 0]);
    expect(bench.space.kind).to.equal('iommu');
    bench.submit([0x21 + 7 * 65536, 0, 0, 0]);
    expect(bench.held()).to.deep.equal(IDENTITY);
    bench.ram.write32(CONTEXTS + DEVICE * 16, 0);
    bench.submit([0x31, DEVICE + 1, 0, 0]);
    expect(bench.space.kind).to.equal('system');
    // FM = 1 leaves bit 2 of the function number out of the comparison.
    bench.submit([0x31, DEVICE + 4 + 0x10000, 0, 0]);
    expect(bench.space.kind).to.equal('blocked');
    expect(bench.held()).to.deep.equal([]);
  });

  it('reports TES and RTPS only when the old mappings are gone', async () => {
    const bench = new Bench();
    bench.notifier.hold();
    const enabled = bench.enable();
    expect(bench.read(vtd.GSTS_REG)).to.equal(0n);
    expect(bench.held()).to.deep.equal([]);
    bench.notifier.release();
    await enabled;
    expect(bench.read(vtd.GSTS_REG)).to.equal(0xc0000000n);
    expect(bench.held()).to.deep.equal(TRANSLATED);
  });

  it('keeps order when commands arrive while one pends', async () => {
    const bench = new Bench();
    bench.notifier.hold();
    bench.enable();
    const last = bench.iommu.writeRegister(vtd.GCMD_REG, 4, 0n);
    bench.notifier.release();
    await last;
    expect(bench.read(vtd.GSTS_REG)).to.equal(BigInt(vtd.GCMD_SRTP));
    expect(bench.held()).to.deep.equal(IDENTITY);
  });

  it('drops commands beyond the limit and counts them', async () => {
    const bench = new Bench();
    bench.notifier.hold();
    bench.enable();
    for (let i = 0; i < PENDING_COMMAND_LIMIT + 3; i++)
      bench.iommu.writeRegister(vtd.CCMD_REG, 8, 0xa0n << 56n);
    expect(bench.iommu.counters.droppedCommands).to.equal(3);
    bench.notifier.release();
    await turn();
    expect(bench.read(vtd.GSTS_REG)).to.equal(0xc0000000n);
  });

  it('changes only what differs when a device moves to other tables', () => {
    const bench = new Bench();
    bench.pte(0x6000, 0x101000 + 3);
    bench.enableQueue();
    const other = 0x18000;
    for (const [i, table] of [TOP, MIDDLE, LOWER, LOWEST].entries())
      bench.ram.write(other + i * 4096, bench.ram.read(table, 4096));
    for (let i = 0; i < 3; i++) write64(bench.ram, other + i * 4096, other + (i + 1) * 4096 + 3);
    write64(bench.ram, other + 3 * 4096 + 6 * 8, 0x200000 + 1);
    write64(bench.ram, CONTEXTS + DEVICE * 16, other + 1);
    bench.notifier.log.length = 0;
    bench.submit([0x31, DEVICE, 0, 0]);
    expect(bench.notifier.log).to.deep.equal([
      'switchBegin',
      'unmap 6000 4096',
      'map 6000 4096',
      'switchEnd',
    ]);
    expect(bench.space.audit()).to.deep.equal([]);
  });
});

describe('VT-d model: IOTLB', () => {
  const at = (bench: Bench, iova: number, write = false) => {
    const result = bench.iommu.translate(DEVICE, iova as Iova, write);
    return result.ok ? result.gpa : result.text;
  };

  it('serves what it has until an invalidation that names it', () => {
    const bench = new Bench();
    bench.enableQueue();
    expect(at(bench, 0x5008)).to.equal(0x100008);
    bench.pte(0x5000, 0x200000 + 3);
    expect(at(bench, 0x5010, true), 'not invalidated').to.equal(0x100010);
    bench.submit(page(0x5000, 8), page(0x6000), [0x22 + 8 * 65536, 0, 0, 0]);
    expect(at(bench, 0x5010), 'another domain, another page').to.equal(0x100010);
    expect(bench.iommu.iotlbCounters).to.deep.equal({ hits: 2, misses: 1, invalidated: 0 });
    for (const [i, named] of [page(0x4000, 7, 1), [0x22 + 7 * 65536, 0, 0, 0], [0x12, 0, 0, 0]].entries()) {
      bench.pte(0x5000, 0x300000 + 0x100000 * i + 3);
      bench.submit(named);
      expect(at(bench, 0x5010)).to.equal(0x300010 + 0x100000 * i);
    }
    expect(bench.iommu.iotlbCounters).to.deep.equal({ hits: 2, misses: 4, invalidated: 3 });
  });

  it('keeps no fault, and walks again for a permission that an entry does not have', () => {
    const bench = new Bench();
    bench.enableQueue();
    expect(at(bench, 0x7000)).to.equal('no read permission, or not mapped');
    bench.pte(0x7000, 0x100000 + PERM_READ);
    expect(at(bench, 0x7000)).to.equal(0x100000);
    bench.pte(0x7000, 0x100000 + 3);
    expect(at(bench, 0x7000, true)).to.equal(0x100000);
  });

  it('is tagged with the domain, and is empty after a new root or TE', () => {
    const bench = new Bench();
    bench.enableQueue();
    at(bench, 0x5000);
    bench.context(vtd.TT_MULTI_LEVEL, 9);
    bench.pte(0x5000, 0x200000 + 3);
    expect(at(bench, 0x5000)).to.equal(0x200000);
    bench.pte(0x5000, 0x300000 + 3);
    bench.enable(vtd.GCMD_TE | vtd.GCMD_QIE);
    expect(at(bench, 0x5000)).to.equal(0x300000);
  });
});

describe('VT-d model: faults', () => {
  it('tells the refused access, records it and sends the fault event', () => {
    const bench = new Bench();
    bench.enable();
    bench.iommu.writeRegister(vtd.FEDATA_REG, 4, 0x41n);
    bench.iommu.writeRegister(vtd.FEADDR_REG, 4, 0xfee01000n);
    bench.iommu.writeRegister(vtd.FECTL_REG, 4, 0n);
    bench.pte(0x7000, 0x100000 + PERM_READ);
    const result = bench.iommu.translate(DEVICE, 0x7008 as Iova, true);
    expect(result).to.deep.equal({ ok: false, reason: 5, text: 'no write permission' });
    expect(bench.faults).to.have.length(1);
    expect(bench.read(vtd.FRCD_LO_REG, 8)).to.equal(0x7000n);
    expect(bench.messages).to.deep.equal([[0xfee01000, 0x41]]);
    expect(bench.iommu.translate(DEVICE, 0x7008 as Iova, false)).to.deep.equal({
      ok: true,
      gpa: gpa(0x100008),
      perm: PERM_READ,
    });
  });

  it('holds a masked message and sends it at unmasking', () => {
    const bench = new Bench();
    bench.enable();
    bench.iommu.translate(DEVICE, 0x9000 as Iova, false);
    expect(bench.messages).to.deep.equal([]);
    bench.iommu.writeRegister(vtd.FECTL_REG, 4, 0n);
    expect(bench.messages).to.have.length(1);
    expect(bench.read(vtd.FECTL_REG)).to.equal(0n);
  });

  it('hides qualified faults from the register file under FPD, not from the emulator', () => {
    const bench = new Bench();
    write64(bench.ram, CONTEXTS + DEVICE * 16, TOP + vtd.CONTEXT_FPD + 1);
    bench.enable();
    bench.iommu.translate(DEVICE, 0x9000 as Iova, false);
    expect(bench.read(vtd.FSTS_REG)).to.equal(0n);
    expect(bench.faults).to.have.length(1);
  });

  it('refuses pass-through accesses beyond the address width, as the specification says', () => {
    const bench = new Bench();
    bench.context(vtd.TT_PASS_THROUGH);
    bench.enable();
    expect(bench.iommu.translate(DEVICE, (2 ** 48) as Iova, false)).to.include({ ok: false, reason: 4 });
    expect(bench.iommu.translate(DEVICE, (2 ** 48 - 4096) as Iova, false)).to.include({ ok: true });
  });
});

describe('VT-d model: tables', () => {
  const tables = (ram: GuestRam, root: number, onWalked = (_entries: number) => {}) =>
    new SecondLevelTables(ram, root, 4, new SecondLevelFormat({ awBits: 48, cachingMode: true }), onWalked);

  it('ends a walk of a table that points at itself, within the limit', () => {
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

  it('leaves the interrupt range out of a large page around it', () => {
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

describe('VT-d model: invalidation queue', () => {
  it('writes the status word only after the unmaps before it are complete', async () => {
    const bench = new Bench();
    bench.enableQueue();
    bench.pte(0x5000, 0);
    bench.notifier.hold();
    const done = bench.submit(page(0x5000), wait(9));
    expect(bench.ram.read32(STATUS)).to.equal(0);
    expect(bench.read(vtd.IQH_REG, 8)).to.equal(0n);
    bench.notifier.release();
    await done;
    expect(bench.ram.read32(STATUS)).to.equal(9);
    expect(bench.read(vtd.IQH_REG, 8)).to.equal(0x20n);
    expect(bench.held()).to.deep.equal([]);
  });

  it('takes a tail moved while it works, without a second processor', async () => {
    const bench = new Bench();
    bench.enableQueue();
    bench.pte(0x5000, 0);
    bench.notifier.hold();
    const first = bench.submit(page(0x5000), wait(1));
    const second = bench.submit(page(0x5000), wait(2));
    expect(bench.iommu.counters.invalidations).to.equal(1);
    bench.notifier.release();
    await Promise.all([first, second]);
    expect(bench.ram.read32(STATUS)).to.equal(2);
    expect(bench.iommu.counters.invalidations).to.equal(2);
    expect(bench.read(vtd.IQH_REG, 8)).to.equal(0x40n);
  });

  it('touches only the devices of the domain', () => {
    const bench = new Bench();
    bench.enableQueue();
    bench.pte(0x5000, 0);
    bench.submit(page(0x5000, 8), [0x22 + 6 * 65536, 0, 0, 0]);
    expect(bench.held()).to.deep.equal(TRANSLATED);
    bench.submit([0x22 + 7 * 65536, 0, 0, 0]);
    expect(bench.held()).to.deep.equal([]);
  });

  it('gives way to others after much work', async () => {
    const bench = new Bench();
    bench.enableQueue();
    // Every walk is as long as walks can be, and finds nothing: the lowest entries have a reserved bit.
    for (const table of [TOP, MIDDLE, LOWER])
      for (let i = 0; i < 512; i++) write64(bench.ram, table + i * 8, table + 4096 + 3);
    for (let i = 0; i < 512; i++) write64(bench.ram, LOWEST + i * 8, 0x800 + 3);
    const global = [0x12, 0, 0, 0];
    const done = bench.submit(global, global, wait(1));
    expect(bench.read(vtd.IQH_REG, 8)).to.equal(0x10n);
    await done;
    expect(bench.ram.read32(STATUS)).to.equal(1);
    expect(bench.iommu.counters.truncatedWalks).to.equal(2);
  });

  it('stops at a bad descriptor with IQE and goes on when software clears it', () => {
    const bench = new Bench();
    bench.enableQueue();
    bench.submit(wait(1), [0, 0, 0, 0], wait(2));
    expect(bench.read(vtd.FSTS_REG)).to.equal(BigInt(vtd.FSTS_IQE));
    expect(bench.read(vtd.IQH_REG, 8)).to.equal(0x10n);
    expect(bench.ram.read32(STATUS)).to.equal(1);
    bench.ram.write32(RING + 0x10, 0x11);
    bench.iommu.writeRegister(vtd.FSTS_REG, 4, BigInt(vtd.FSTS_IQE));
    expect(bench.ram.read32(STATUS)).to.equal(2);
    expect(bench.read(vtd.FSTS_REG)).to.equal(0n);
  });

  it('reports register invalidations as ignored while the queue is enabled', () => {
    const bench = new Bench();
    bench.enableQueue();
    bench.iommu.writeRegister(vtd.CCMD_REG, 8, vtd.CCMD.ICC | (1n << vtd.CCMD.CIRG_SHIFT));
    expect(bench.read(vtd.CCMD_REG, 8)).to.equal(1n << vtd.CCMD.CIRG_SHIFT);
    expect(bench.iommu.counters.invalidations).to.equal(0);
  });

  it('clears ICC and IVT only when the invalidation is complete', async () => {
    const bench = new Bench();
    bench.enable();
    bench.pte(0x5000, 0);
    bench.notifier.hold();
    bench.iommu.writeRegister(vtd.IVA_REG, 8, 0x5000n);
    const done = bench.iommu.writeRegister(
      vtd.IOTLB_REG,
      8,
      vtd.IOTLB.IVT | (3n << vtd.IOTLB.IIRG_SHIFT) | (7n << vtd.IOTLB.DID_SHIFT),
    );
    expect(bench.read(vtd.IOTLB_REG, 8) & vtd.IOTLB.IVT).to.equal(vtd.IOTLB.IVT);
    bench.notifier.release();
    await done;
    expect(bench.read(vtd.IOTLB_REG, 8) & vtd.IOTLB.IVT).to.equal(0n);
    expect(bench.held()).to.deep.equal([]);
  });
});
