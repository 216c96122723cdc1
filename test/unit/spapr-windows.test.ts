/**
 * sPAPR windows that come and go while devices use them, their TCEs, and the call page's records.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as spapr from '../../src/abi/spapr.ts';
import * as callPage from '../../src/abi/spapr-call-page.ts';
import { BUID_HI, BUID_LO, DYNAMIC_WINDOW_START } from '../../src/abi/spapr-host-bridges.ts';
import { type Gpa, type Iova, PERM_RW } from '../../src/memory/address.ts';
import type { DmaWindow } from '../../src/memory/dma-window.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import type { MapNotifier } from '../../src/viommu/notifier.ts';
import { SPAPR_FAULT, SpaprIommu, type SpaprIommuOptions } from '../../src/viommu/spapr/iommu.ts';
import { TceBudget, TceWindow } from '../../src/viommu/spapr/tce-window.ts';
import { RecordingNotifier, smallRam } from '../fixtures/recording-notifier.ts';

const DEVICE = 8;
const UNIT = [0, BUID_HI, BUID_LO];
const [LIOBN, DYNAMIC] = [0x8000_0000, 0x8000_0001];
const { H_PUT_TCE, H_SUCCESS } = spapr;

/** A unit with one device. `shown` has the count of windows that its container was told of, in order. */
function rig(options: Partial<SpaprIommuOptions> = {}) {
  const ram = smallRam();
  const iommu = new SpaprIommu({ ram, ...options });
  const notifier = new RecordingNotifier(ram);
  const shown: number[] = [];
  const told: MapNotifier = notifier;
  told.windows = (windows: readonly DmaWindow[]) => void shown.push(windows.length);
  void iommu.attach(new DeviceAddressSpace(DEVICE, notifier, ram.regions));
  const rtas = async (name: string, args: readonly number[], results: number) => {
    const { status, rets } = await iommu.rtas(name, args, results);
    return [status, ...rets];
  };
  return {
    ...{ ram, iommu, notifier, shown, rtas },
    put: async (liobn: number, ioba: number, tce: bigint) =>
      (await iommu.hypercall(H_PUT_TCE, [BigInt(liobn), BigInt(ioba), tce])).ret,
    create: (shift: number, windowShift: number) =>
      rtas(spapr.CREATE_PE_DMA_WINDOW, [...UNIT, shift, windowShift], 4),
    remove: (liobn: number) => rtas(spapr.REMOVE_PE_DMA_WINDOW, [liobn], 1),
    reset: () => rtas(spapr.RESET_PE_DMA_WINDOW, UNIT, 1),
    free: async () => (await rtas(spapr.QUERY_PE_DMA_WINDOW, UNIT, 5))[1],
    held: () => notifier.mappings.map(({ iova }) => iova),
  };
}

describe('a window that is removed', () => {
  it('leaves the containers only after the devices have left its translations', async () => {
    for (const end of ['remove', 'reset'] as const) {
      const { notifier, shown, put, create, remove, reset } = rig();
      await create(12, 30);
      expect(await put(DYNAMIC, DYNAMIC_WINDOW_START, 0x3003n)).to.equal(H_SUCCESS);
      expect(shown).to.deep.equal([1, 2]);
      notifier.hold();
      const removing = end === 'remove' ? remove(DYNAMIC) : reset();
      await Promise.resolve();
      expect(shown, 'while a device uses it').to.deep.equal([1, 2]);
      notifier.release();
      expect(await removing).to.deep.equal([0]);
      expect(shown).to.deep.equal([1, 2, 1]);
    }
  });

  it('is gone after a reset, with its LIOBN', async () => {
    const { create, reset, free, put } = rig();
    await create(12, 30);
    expect(await free()).to.equal(0);
    await reset();
    expect([await free(), await put(DYNAMIC, DYNAMIC_WINDOW_START, 0n)]).to.deep.equal([
      1,
      spapr.H_PARAMETER,
    ]);
  });

  it('uncovers the window that it hid, which a new one hides again (QEMU)', async () => {
    const { create, remove, put, held } = rig({ quirks: 'qemu' });
    await create(12, 30);
    await remove(LIOBN);
    await create(12, 30);
    await put(LIOBN, DYNAMIC_WINDOW_START, 0x3003n);
    expect(held(), 'hidden by the window in slot 1').to.deep.equal([]);
    await remove(DYNAMIC);
    expect(held()).to.deep.equal([DYNAMIC_WINDOW_START]);
    await create(12, 30);
    expect(held()).to.deep.equal([]);
  });
});

describe('the place of a window', () => {
  it('at the lower start ends below the upper one', async () => {
    const bridges = [{ dynamicWindowStart: 2 ** 40, busAddressLimit: 2 ** 48 }];
    const { create, remove } = rig({ bridges });
    await remove(LIOBN);
    expect(await create(16, 41)).to.deep.equal([0, LIOBN, 2 ** 8, 0]);
    expect(await create(16, 40)).to.deep.equal([0, DYNAMIC, 0, 0]);
  });

  it('does not change in a bridge without dynamic windows', async () => {
    const { create, remove, reset, free } = rig({ bridges: [{ dynamicWindows: false }] });
    expect([await create(12, 30), await remove(LIOBN), await reset()]).to.deep.equal([[-3], [-3], [-3]]);
    expect(await free()).to.equal(undefined);
  });

  it('does not include the address behind its end', async () => {
    const { iommu } = rig();
    const reasonAt = (iova: number) => {
      const answer = iommu.translate(DEVICE, iova as Iova, false);
      return answer.ok ? 0 : answer.reason;
    };
    expect(reasonAt(2 ** 30)).to.equal(SPAPR_FAULT.OUTSIDE_WINDOW);
    expect(reasonAt(2 ** 30 - 1)).to.not.equal(SPAPR_FAULT.OUTSIDE_WINDOW);
  });
});

describe('the TCEs of a window', () => {
  const shape = { liobn: 1, start: 2 ** 40, pageShift: 16, entries: 16, isDefault: false };
  const ram = [{ gpa: 0x5000 as Gpa, size: 0x8000 }];

  it('are visited for any part of their page', () => {
    const window = new TceWindow(shape, new TceBudget());
    window.set(2, 3n);
    const visit = (start: number, end: number) => {
      const found: number[] = [];
      window.walk(2 ** 40 + start, 2 ** 40 + end, ram, ({ iova }) => found.push(iova - 2 ** 40) > 0);
      return found;
    };
    expect(visit(0x2_7000, 0x2_8000)).to.deep.equal([0x2_5000]);
    expect([visit(0, 0x2_0000), visit(0x3_0000, 0x10_0000)]).to.deep.equal([[], []]);
  });

  it('translate the part of their page that lies in RAM', () => {
    const window = new TceWindow(shape, new TceBudget());
    window.set(1, 3n);
    expect(window.translationOf(1, ram)).to.deep.equal({
      ...{ iova: 2 ** 40 + 0x1_5000, gpa: 0x5000, size: 0x8000, perm: PERM_RW },
    });
  });
});

describe('a slot of the call page', () => {
  const slot = (register: number) => callPage.CALL_SLOT_BASE + register;

  function slots() {
    const parts = rig();
    const { iommu, ram } = parts;
    const write = (register: number, value: bigint) => iommu.writeRegister(slot(register), 8, value);
    write(callPage.CALL_OPCODE, BigInt(H_PUT_TCE));
    write(callPage.CALL_ARG0, BigInt(LIOBN));
    const ring = (tce: bigint, sequence: bigint) => {
      write(callPage.CALL_ARG0 + 16, tce);
      return write(callPage.CALL_DOORBELL, sequence);
    };
    const recordAt = (gpa: number) => ram.read32(gpa + callPage.CALL_RECORD_SEQUENCE);
    return { ...parts, write, ring, recordAt };
  }

  it('takes the next call after one that had to wait', async () => {
    const { notifier, write, ring, recordAt } = slots();
    await ring(0x3003n, 1n);
    notifier.hold();
    write(callPage.CALL_RECORD, 0x8000n);
    const pending = ring(0x4003n, 2n);
    write(callPage.CALL_RECORD, 0x9000n);
    notifier.release();
    await pending;
    expect([recordAt(0x8000), recordAt(0x9000)], 'the record of the call').to.deep.equal([2, 0]);
    await ring(0x5003n, 3n);
    expect([recordAt(0x8000), recordAt(0x9000)]).to.deep.equal([2, 3]);
    expect(notifier.mappings[0]?.gpa).to.equal(0x5000);
  });

  it('writes no record to an address that is not aligned', async () => {
    const { ram, write, ring } = slots();
    write(callPage.CALL_RECORD, 0x8004n);
    await ring(0x3003n, 7n);
    expect(ram.isZero(0x8000 as Gpa, 0x1000)).to.equal(true);
  });
});
