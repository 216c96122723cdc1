import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as spapr from '../../src/abi/spapr.ts';
import * as callPage from '../../src/abi/spapr-call-page.ts';
import { BUID_HI, BUID_LO, DYNAMIC_WINDOW_START } from '../../src/abi/spapr-host-bridges.ts';
import { MappingRecord } from '../../src/conformance/mapping-record.ts';
import type { Iova } from '../../src/memory/address.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { PENDING_COMMAND_LIMIT } from '../../src/viommu/command-serial.ts';
import type { Quirks } from '../../src/viommu/quirks.ts';
import type { HypercallResult } from '../../src/viommu/spapr/hypercalls.ts';
import {
  BRIDGES_LIMIT,
  SPAPR_FAULT,
  SpaprIommu,
  type SpaprIommuOptions,
  VIO_LIMIT,
} from '../../src/viommu/spapr/iommu.ts';
import { RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const DEVICE = 8;
const LIOBN = 0x8000_0000n;
const DYNAMIC = 0x8000_0001n;
const RAM_BYTES = 0x200_0000;
const ENTRIES = 0x4_0000n;
const { H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT, H_SUCCESS, H_PARAMETER } = spapr;

class Rig {
  readonly ram: GuestRam = smallRam();
  readonly iommu: SpaprIommu;
  readonly notifier = new RecordingNotifier(this.ram);
  readonly space = new DeviceAddressSpace(DEVICE, this.notifier, this.ram.regions);

  constructor(quirks: Quirks = 'spec', options: Partial<SpaprIommuOptions> = {}) {
    this.iommu = new SpaprIommu({ ram: this.ram, quirks, ...options });
    void this.iommu.attach(this.space);
  }

  call(opcode: number, ...args: bigint[]): bigint {
    return this.result(opcode, ...args).ret;
  }

  result(opcode: number, ...args: bigint[]): HypercallResult {
    const result = this.iommu.hypercall(opcode, args);
    if (result instanceof Promise) throw new Error('did not return at once');
    return result;
  }

  tce(ioba: bigint, liobn = LIOBN): bigint | undefined {
    return this.result(H_GET_TCE, liobn, ioba).out[0];
  }

  rtas(name: string, args: readonly number[], results: number): readonly number[] {
    const result = this.iommu.rtas(name, args, results);
    if (result instanceof Promise) throw new Error('did not return at once');
    return [result.status, ...result.rets];
  }

  create(pageShift: number, windowShift: number): readonly number[] {
    return this.rtas(spapr.CREATE_PE_DMA_WINDOW, [...UNIT, pageShift, windowShift], 4);
  }

  list(gpa: number, ...tces: bigint[]): void {
    const bytes = Buffer.alloc(8 * tces.length);
    tces.forEach((tce, i) => {
      bytes.writeBigUInt64BE(tce, 8 * i);
    });
    this.ram.write(gpa, bytes);
  }

  get held(): string[] {
    return this.notifier.mappings.map(
      ({ iova, gpa, size, perm }) => `${iova.toString(16)}→${gpa.toString(16)} +${size.toString(16)} ${perm}`,
    );
  }
}

const UNIT = [0, BUID_HI, BUID_LO];

describe('sPAPR hypercalls', () => {
  it('put and get one TCE, mapped for the device when the call returns', () => {
    const rig = new Rig();
    expect(rig.space.kind, 'never identity').to.equal('iommu');
    expect(rig.held).to.deep.equal([]);
    expect(rig.call(H_PUT_TCE, LIOBN, 0x5abcn, 0x20_0003n)).to.equal(H_SUCCESS);
    expect(rig.tce(0x5000n)).to.equal(0x20_0003n);
    expect(rig.held).to.deep.equal(['5000→200000 +1000 3']);
    expect(rig.call(H_PUT_TCE, LIOBN, 0x5000n, 0x20_1001n)).to.equal(H_SUCCESS);
    expect(rig.held).to.deep.equal(['5000→201000 +1000 1']);
    expect(rig.call(H_PUT_TCE, LIOBN, 0x5000n, 0n)).to.equal(H_SUCCESS);
    expect(rig.held).to.deep.equal([]);
    expect(rig.iommu.liveTces).to.equal(0);
  });

  it('return H_PARAMETER for an unknown LIOBN, and an address outside the window', () => {
    const rig = new Rig('spec', { bridges: [{ defaultWindow: { start: 0x1000_0000, size: 0x1000_0000 } }] });
    const last = 0x1fff_ffffn;
    for (const opcode of [H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT]) {
      for (const liobn of [0n, DYNAMIC, LIOBN + 0x100n, LIOBN + 2n ** 32n])
        expect(rig.call(opcode, liobn, last, 0n, 1n), `${liobn}`).to.equal(H_PARAMETER);
      for (const ioba of [0n, 0x0fff_ffffn, last + 1n, 2n ** 64n - 1n])
        expect(rig.call(opcode, LIOBN, ioba, 0n, 1n), `${ioba}`).to.equal(H_PARAMETER);
      expect(rig.call(opcode, LIOBN, last, 0n, 1n)).to.equal(H_SUCCESS);
      expect(rig.call(opcode, LIOBN, 0x1000_0000n, 0n, 1n)).to.equal(H_SUCCESS);
    }
  });

  it('return H_PARAMETER for a TCE outside RAM, unless it has no permission', () => {
    const rig = new Rig();
    const last = BigInt(RAM_BYTES - 4096);
    expect(rig.call(H_PUT_TCE, LIOBN, 0n, last | 1n)).to.equal(H_SUCCESS);
    for (const tce of [BigInt(RAM_BYTES) | 2n, (1n << 63n) | 3n]) {
      expect(rig.call(H_PUT_TCE, LIOBN, 0n, tce)).to.equal(H_PARAMETER);
      expect(rig.call(H_STUFF_TCE, LIOBN, 0n, tce, 1n)).to.equal(H_PARAMETER);
      rig.list(0x1000, 0x3000n | 3n, tce);
      expect(rig.call(H_PUT_TCE_INDIRECT, LIOBN, 0n, 0x1000n, 2n)).to.equal(H_PARAMETER);
      expect(rig.tce(0n), 'no TCE stored').to.equal(last | 1n);
      expect(rig.call(H_PUT_TCE, LIOBN, 0x1000n, tce & ~3n)).to.equal(H_SUCCESS);
    }
    const qemu = new Rig('qemu');
    expect(qemu.call(H_PUT_TCE, LIOBN, 0n, BigInt(RAM_BYTES) | 3n)).to.equal(H_SUCCESS);
    expect(qemu.iommu.translate(DEVICE, 0 as Iova, true)).to.include({ reason: SPAPR_FAULT.TARGET_NOT_RAM });
    expect(qemu.held).to.deep.equal([]);
  });

  it('return H_P4 for H_STUFF_TCE of more than 512 TCEs, and accept 512 and 0', () => {
    const rig = new Rig();
    expect(rig.call(H_STUFF_TCE, LIOBN, 0n, 0x3003n, 513n)).to.equal(spapr.H_P4);
    expect(rig.call(H_STUFF_TCE, LIOBN, 0n, 0x3003n, 2n ** 64n - 1n)).to.equal(spapr.H_P4);
    expect(rig.iommu.liveTces).to.equal(0);
    expect(rig.call(H_STUFF_TCE, LIOBN, 0n, 0x3003n, 0n)).to.equal(H_SUCCESS);
    expect(rig.iommu.liveTces).to.equal(0);
    expect(rig.call(H_STUFF_TCE, LIOBN, 0n, 0x3003n, 512n)).to.equal(H_SUCCESS);
    expect(rig.notifier.mappings).to.have.length(512);
    expect(rig.call(H_STUFF_TCE, LIOBN, 0x1000n, 0n, 510n)).to.equal(H_SUCCESS);
    expect(rig.held).to.deep.equal(['0→3000 +1000 3', '1ff000→3000 +1000 3']);
  });

  it('store nothing of a run across the end of the window, or in QEMU the part inside', () => {
    const end = (ENTRIES - 1n) << 12n;
    for (const quirks of ['spec', 'qemu'] as const) {
      const rig = new Rig(quirks);
      rig.list(0x1000, 0x3003n, 0x4003n);
      expect(rig.call(H_PUT_TCE_INDIRECT, LIOBN, end, 0x1000n, 2n)).to.equal(H_PARAMETER);
      expect(rig.tce(end)).to.equal(quirks === 'spec' ? 0n : 0x3003n);
      expect(rig.call(H_STUFF_TCE, LIOBN, end, 0x5003n, 2n)).to.equal(H_PARAMETER);
      expect(rig.tce(end)).to.equal(quirks === 'spec' ? 0n : 0x5003n);
    }
  });

  it('read up to 512 big-endian TCEs from an aligned page of RAM in H_PUT_TCE_INDIRECT', () => {
    const rig = new Rig();
    rig.list(0x1000, ...Array.from({ length: 512 }, (_, i) => BigInt(i * 4096) | 3n));
    expect(rig.call(H_PUT_TCE_INDIRECT, LIOBN, 0n, 0x1000n, 512n)).to.equal(H_SUCCESS);
    expect(rig.tce(511n << 12n)).to.equal((511n << 12n) | 3n);
    for (const [list, count] of [
      [0x1000n, 513n],
      [0x1008n, 1n],
      [BigInt(RAM_BYTES), 1n],
      [2n ** 64n - 4096n, 1n],
    ] as const)
      expect(rig.call(H_PUT_TCE_INDIRECT, LIOBN, 0n, list, count)).to.equal(H_PARAMETER);
    expect(rig.tce(0n)).to.equal(3n);
    expect(rig.call(H_PUT_TCE_INDIRECT, LIOBN, 0n, 0x1000n, 0n)).to.equal(H_SUCCESS);
  });

  it('return H_FUNCTION for an unknown opcode, and for several tables (a negative LIOBN)', () => {
    const rig = new Rig();
    expect(rig.call(0x4)).to.equal(spapr.H_FUNCTION);
    expect(rig.call(H_PUT_TCE_INDIRECT, 2n ** 64n - 1n, 0n, 0x1000n, 1n)).to.equal(spapr.H_FUNCTION);
    expect(new Rig('qemu').call(H_PUT_TCE_INDIRECT, 2n ** 64n - 1n, 0n, 0x1000n, 1n)).to.equal(H_PARAMETER);
  });

  it('return H_NOT_ENOUGH_RESOURCES beyond the unit’s TCE limit, until TCEs are cleared', () => {
    const rig = new Rig('spec', { liveTceLimit: 4 });
    expect(rig.call(H_STUFF_TCE, LIOBN, 0n, 0x3003n, 5n)).to.equal(spapr.H_NOT_ENOUGH_RESOURCES);
    expect(rig.call(H_STUFF_TCE, LIOBN, 0n, 0x3003n, 4n)).to.equal(H_SUCCESS);
    expect(rig.call(H_PUT_TCE, LIOBN, 0x4000n, 0x3003n)).to.equal(spapr.H_NOT_ENOUGH_RESOURCES);
    expect(rig.call(H_PUT_TCE, LIOBN, 0x3000n, 0x4003n), 'in place').to.equal(H_SUCCESS);
    expect(rig.call(H_PUT_TCE, LIOBN, 0x4000n, 0n)).to.equal(H_SUCCESS);
    expect(rig.call(H_PUT_TCE, LIOBN, 0x0n, 0n)).to.equal(H_SUCCESS);
    expect(rig.call(H_PUT_TCE, LIOBN, 0x4000n, 0x3003n)).to.equal(H_SUCCESS);
    expect(rig.iommu.liveTces).to.equal(4);
    expect(rig.rtas(spapr.RESET_PE_DMA_WINDOW, UNIT, 1)).to.deep.equal([0]);
    expect(rig.iommu.liveTces).to.equal(0);
  });

  it('return in order, when no device can use the old TCE, and H_BUSY beyond the limit', async () => {
    const rig = new Rig();
    rig.call(H_PUT_TCE, LIOBN, 0n, 0x3003n);
    rig.notifier.hold();
    let returned = 0;
    const calls = Array.from({ length: PENDING_COMMAND_LIMIT + 1 }, async (_, i) => {
      const { ret } = await rig.iommu.hypercall(H_PUT_TCE, [LIOBN, 0n, BigInt(i << 12) | 3n]);
      expect(ret).to.equal(H_SUCCESS);
      returned++;
    });
    expect(rig.call(H_PUT_TCE, LIOBN, 0n, 0n)).to.equal(spapr.H_BUSY);
    await Promise.resolve();
    expect(returned).to.equal(0);
    rig.notifier.release();
    await Promise.all(calls);
    expect(rig.held).to.deep.equal([`0→${(PENDING_COMMAND_LIMIT << 12).toString(16)} +1000 3`]);
    expect(rig.iommu.counters.busy).to.equal(1);
  });
});

describe('sPAPR windows', () => {
  it('map whole pages in a dynamic window of each page size', () => {
    for (const shift of [12, 16, 21, 24]) {
      const rig = new Rig();
      expect(rig.create(shift, 34)).to.deep.equal([0, 0x8000_0001, 0x800_0000, 0]);
      const second = DYNAMIC_WINDOW_START + 2 ** shift;
      expect(rig.call(H_PUT_TCE, DYNAMIC, BigInt(second), 0x100_0003n)).to.equal(H_SUCCESS);
      expect(rig.held).to.deep.equal([`${second.toString(16)}→1000000 +${(2 ** shift).toString(16)} 3`]);
      const at = (second + 2 ** shift - 4096) as Iova;
      const answer = rig.iommu.translate(DEVICE, at, true);
      expect(answer).to.deep.include({ ok: true, gpa: 0x100_0000 + 2 ** shift - 4096 });
      expect(rig.space.audit()).to.deep.equal([]);
      expect(rig.rtas(spapr.REMOVE_PE_DMA_WINDOW, [Number(DYNAMIC)], 1)).to.deep.equal([0]);
      expect(rig.held).to.deep.equal([]);
      expect(rig.iommu.translate(DEVICE, at, true)).to.include({ reason: SPAPR_FAULT.OUTSIDE_WINDOW });
    }
  });

  it('refuse invalid page sizes, sizes beyond the limit, and a third window', () => {
    const rig = new Rig();
    expect(rig.create(20, 30)).to.deep.equal([-3]);
    expect(rig.create(16, 15)).to.deep.equal([-3]);
    expect(rig.create(12, 44)).to.deep.equal([-3]);
    expect(rig.create(12, 0xffff_ffff)).to.deep.equal([-3]);
    expect(rig.create(12, 43)[0]).to.equal(0);
    expect(rig.create(12, 30)).to.deep.equal([-3]);
    expect(new Rig('qemu').create(12, 44)).to.deep.equal([-1]);
    expect(new Rig('qemu').create(12, 76)[0], 'the shift count is taken modulo 64').to.equal(0);
  });

  it('end below the bus address limit of the bridge', () => {
    const bridges = [{ dynamicWindowStart: 2 ** 47, busAddressLimit: 2 ** 48 }];
    const rig = new Rig('spec', { bridges });
    expect(rig.create(24, 48)).to.deep.equal([-3]);
    expect(rig.create(24, 47)).to.deep.equal([0, 0x8000_0001, 2 ** 15, 0]);
  });

  it('restore the default window after the removal of the last other one, not of itself', () => {
    const rig = new Rig();
    const remove = (liobn: bigint) => rig.rtas(spapr.REMOVE_PE_DMA_WINDOW, [Number(liobn)], 1)[0];
    const free = () => rig.rtas(spapr.QUERY_PE_DMA_WINDOW, UNIT, 5)[1];
    rig.call(H_PUT_TCE, LIOBN, 0n, 0x3003n);
    rig.create(12, 30);
    expect([remove(LIOBN), free(), remove(DYNAMIC), free()]).to.deep.equal([0, 1, 0, 1]);
    expect(rig.tce(0n), 'empty').to.equal(0n);
    expect([remove(LIOBN), free(), remove(LIOBN)]).to.deep.equal([0, 2, -3]);
    expect(rig.create(16, 30)).to.deep.equal([0, 0x8000_0000, 0, 0]);
    expect([remove(LIOBN), free()]).to.deep.equal([0, 1]);
    const qemu = new Rig('qemu');
    qemu.rtas(spapr.REMOVE_PE_DMA_WINDOW, [Number(LIOBN)], 1);
    qemu.create(16, 30);
    qemu.rtas(spapr.REMOVE_PE_DMA_WINDOW, [Number(LIOBN)], 1);
    expect(qemu.rtas(spapr.QUERY_PE_DMA_WINDOW, UNIT, 5)[1], 'QEMU leaves none').to.equal(2);
  });

  it('overlap only in QEMU, where the second hides the first until its removal', () => {
    const overlap = (quirks: Quirks) => {
      const rig = new Rig(quirks);
      rig.create(16, 20);
      rig.rtas(spapr.REMOVE_PE_DMA_WINDOW, [Number(LIOBN)], 1);
      const [, , high] = rig.create(24, 30);
      return { rig, high };
    };
    expect(overlap('spec').high, 'the default place is free').to.equal(0);
    const { rig, high } = overlap('qemu');
    expect(high).to.equal(0x800_0000);
    const start = BigInt(DYNAMIC_WINDOW_START);
    rig.call(H_PUT_TCE, LIOBN, start, 0x100_0003n);
    expect(rig.held, 'from where window 1 ends').to.deep.equal(['800000000100000→1100000 +f00000 3']);
    rig.call(H_PUT_TCE, DYNAMIC, start, 0x3_0001n);
    expect(rig.held[0]).to.equal('800000000000000→30000 +10000 1');
    expect(rig.space.audit()).to.deep.equal([]);
    rig.rtas(spapr.REMOVE_PE_DMA_WINDOW, [Number(DYNAMIC)], 1);
    expect(rig.held).to.deep.equal(['800000000000000→1000000 +1000000 3']);
  });

  it('belong to one bridge each', () => {
    const rig = new Rig('spec', { bridges: [{}, {}], bridgeOf: (id) => id >>> 8 });
    const other = new MappingRecord(rig.ram);
    void rig.iommu.attach(new DeviceAddressSpace(0x108, other, rig.ram.regions));
    rig.call(H_PUT_TCE, LIOBN + 0x100n, 0n, 0x3003n);
    expect([rig.notifier.mappings.length, other.size]).to.deep.equal([0, 1]);
    expect(rig.iommu.translate(0x108, 0 as Iova, true).ok).to.equal(true);
    expect(rig.iommu.translate(DEVICE, 0 as Iova, true)).to.include({ reason: SPAPR_FAULT.PERMISSION });
    rig.iommu.detach(0x108);
    rig.call(H_PUT_TCE, LIOBN + 0x100n, 0n, 0n);
    expect(other.size, 'no event after detach').to.equal(1);
  });

  it('have limits by machine: bridges, VIO windows, page sizes', () => {
    const ram = smallRam();
    const make = (options: Partial<SpaprIommuOptions>) => () => new SpaprIommu({ ram, ...options });
    const many = (count: number) => Array.from({ length: count }, () => ({}));
    expect(make({ bridges: many(BRIDGES_LIMIT) })).not.to.throw();
    expect(make({ bridges: many(BRIDGES_LIMIT + 1) })).to.throw(
      RangeError,
      '32 PCI host bridges; accepted: 1 to 31',
    );
    expect(make({ bridges: [] })).to.throw(RangeError);
    const liobns = Array.from({ length: VIO_LIMIT + 1 }, (_, i) => 0x7100_0000 + i);
    expect(make({ vioLiobns: liobns.slice(1) })).not.to.throw();
    expect(make({ vioLiobns: liobns })).to.throw(RangeError);
    expect(make({ bridges: [{ pageShifts: [13] }] })).to.throw(RangeError, 'page shift 13');
    expect(make({ bridges: [{ dynamicWindowStart: 2 ** 20 }] })).to.throw(RangeError, 'default window');
  });
});

describe('sPAPR call page', () => {
  const slot = (index: number, register: number) =>
    callPage.CALL_SLOT_BASE + index * callPage.CALL_SLOT_BYTES + register;
  const post = (rig: Rig, index: number, sequence: bigint, opcode: number, ...args: bigint[]) => {
    rig.iommu.writeRegister(slot(index, callPage.CALL_OPCODE), 8, BigInt(opcode));
    args.forEach((arg, i) => {
      rig.iommu.writeRegister(slot(index, callPage.CALL_ARG0 + 8 * i), 8, arg);
    });
    return rig.iommu.writeRegister(slot(index, callPage.CALL_DOORBELL), 8, sequence);
  };

  it('returns the result of a call, in registers and in RAM', () => {
    const rig = new Rig();
    expect(rig.iommu.readRegister(callPage.CALL_PAGE_ID_REG, 8)).to.equal(callPage.CALL_PAGE_ID);
    rig.iommu.writeRegister(slot(15, callPage.CALL_RECORD), 8, 0x8000n);
    expect(post(rig, 15, 7n, H_PUT_TCE, LIOBN, 0n, 0x3003n)).to.equal(undefined);
    post(rig, 15, 8n, H_GET_TCE, LIOBN, 0n);
    expect(rig.iommu.readRegister(slot(15, callPage.CALL_DONE), 4)).to.equal(8n);
    expect(rig.iommu.readRegister(slot(15, callPage.CALL_OUT), 8)).to.equal(0x3003n);
    expect(rig.ram.read32(0x8000 + callPage.CALL_RECORD_OUT)).to.equal(0x3003);
    expect(rig.ram.read32(0x8000 + callPage.CALL_RECORD_SEQUENCE)).to.equal(8);
  });

  it('ignores a doorbell while its slot is busy, and accepts another slot', async () => {
    const rig = new Rig();
    rig.call(H_PUT_TCE, LIOBN, 0n, 0x3003n);
    rig.notifier.hold();
    const pending = post(rig, 0, 1n, H_PUT_TCE, LIOBN, 0n, 0n);
    expect(pending).to.be.a('promise');
    expect(post(rig, 0, 2n, H_PUT_TCE, LIOBN, 0n, 0x4003n)).to.equal(undefined);
    expect(rig.iommu.readRegister(slot(0, callPage.CALL_DONE), 8)).to.equal(0n);
    const other = post(rig, 1, 1n, H_GET_TCE, LIOBN, 0n);
    rig.notifier.release();
    await Promise.all([pending, other]);
    expect(rig.iommu.readRegister(slot(0, callPage.CALL_DONE), 8)).to.equal(1n);
    expect(rig.iommu.readRegister(slot(1, callPage.CALL_OUT), 8)).to.equal(0n);
    expect(rig.held).to.deep.equal([]);
  });

  it('accepts any access and any argument without an exception', () => {
    const rig = new Rig();
    for (let offset = -8; offset <= callPage.CALL_PAGE_BYTES + 8; offset++)
      for (const size of [1, 2, 4, 8]) {
        void rig.iommu.writeRegister(offset, size, 2n ** 64n - 1n);
        expect(rig.iommu.readRegister(offset, size)).to.be.a('bigint');
      }
    expect(rig.iommu.readRegister(callPage.CALL_PAGE_ID_REG, 8)).to.equal(callPage.CALL_PAGE_ID);
    const huge = 2n ** 64n - 1n;
    for (const opcode of [H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT, spapr.H_RTAS, 0])
      expect(rig.call(opcode, huge, huge, huge, huge) < 0n).to.equal(true);
  });

  it('reads the argument block of H_RTAS, and writes status and results only with an answer', () => {
    const rig = new Rig();
    const block = (...words: number[]) => {
      const bytes = Buffer.alloc(4 * words.length);
      words.forEach((word, i) => {
        bytes.writeUInt32BE(word >>> 0, 4 * i);
      });
      rig.ram.write(0x9000, bytes);
    };
    const word = (index: number) => Buffer.from(rig.ram.read(0x9000 + 4 * index, 4)).readInt32BE();
    const query = spapr.RTAS_TOKENS.get(spapr.QUERY_PE_DMA_WINDOW) as number;
    block(query, 3, 5, ...UNIT, 9, 9, 9, 9, 9);
    expect(rig.call(spapr.H_RTAS, 0x9000n)).to.equal(H_SUCCESS);
    expect([6, 7, 8, 9, 10].map(word)).to.deep.equal([0, 1, -(2 ** 31), 0x107, 0]);
    block(query, 3, 4, ...UNIT, 9, 9, 9, 9);
    expect(rig.call(spapr.H_RTAS, 0x9000n)).to.equal(H_SUCCESS);
    expect([6, 7, 8].map(word)).to.deep.equal([-3, 9, 9]);
    for (const bad of [
      [0x1234, 3, 5, ...UNIT, 9],
      [query, 3, 0, ...UNIT, 9],
      [query, 0xffff_ffff, 5, 9, 9],
    ]) {
      block(...bad);
      expect(rig.call(spapr.H_RTAS, 0x9000n)).to.equal(H_PARAMETER);
    }
    expect(rig.call(spapr.H_RTAS, BigInt(RAM_BYTES - 8))).to.equal(H_PARAMETER);
  });
});
