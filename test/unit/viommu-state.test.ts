/**
 * States of vIOMMUs: effects after a move that no random program provokes, and refusals to save or restore.
 */

import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as amdvi from '../../src/abi/amdvi.ts';
import * as spapr from '../../src/abi/spapr.ts';
import { DYNAMIC_WINDOW_START, liobnOf } from '../../src/abi/spapr-host-bridges.ts';
import * as format from '../../src/abi/virtio-iommu.ts';
import * as vtd from '../../src/abi/vtd.ts';
import { attachRequest, unmapRequest } from '../../src/guest/iommu/virtio/requests.ts';
import type { GuestRam } from '../../src/memory/guest-ram.ts';
import type { VIommu } from '../../src/viommu/viommu.ts';
import { STATUS, waitCommand } from '../fixtures/amdvi-rig.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';
import {
  amdBench,
  amdCommands,
  Bench,
  CASES,
  FIRST,
  leafOf,
  makeAmd,
  makeVirtio,
  makeVtd,
  request,
  SECOND,
  spaprBench,
  virtioBench,
  vtdBench,
  waitDescriptor,
  write64,
} from '../fixtures/viommu-state-cases.ts';

const RAM_BYTES = 4 * MIB;

/** Returns RAM with the same bytes on other host pages. */
function copyOf(ram: GuestRam): GuestRam {
  const copy = smallRam(RAM_BYTES, 0, 2);
  copy.write(0, ram.read(0, RAM_BYTES));
  return copy;
}

/** Returns the bench's unit on another host, with devices attached. */
function move<Model extends VIommu>(bench: Bench<Model>, make: (ram: GuestRam) => Model): Bench<Model> {
  const state = bench.iommu.save?.() as Uint8Array;
  const ram = copyOf(bench.ram);
  const iommu = make(ram);
  iommu.restore?.(state);
  return new Bench(ram, iommu).plugAll();
}

describe('vIOMMU state', () => {
  const ram = () => smallRam(RAM_BYTES);

  for (const [name, { make, bench }] of Object.entries(CASES)) {
    it(`restores equal containers, registers and state on another host: ${name}`, () => {
      const source = bench(ram());
      const target = move(source, make);
      expect(source.held[0], 'mappings of the case').to.not.deep.equal([]);
      expect(target.held).to.deep.equal(source.held);
      for (let at = 0; at < source.iommu.registerBytes; at += 4)
        expect(target.iommu.readRegister(at, 4), `register at ${at}`).to.equal(
          source.iommu.readRegister(at, 4),
        );
      expect(target.iommu.save?.()).to.deep.equal(source.iommu.save?.());
    });

    if (name !== 'none')
      it(`is not restored by a unit with devices: ${name}`, () => {
        const source = bench(ram());
        const state = source.iommu.save?.() as Uint8Array;
        expect(() => source.iommu.restore?.(state)).to.throw('2 devices are attached before restore');
      });
  }

  it('sends a held fault message after the move when the guest unmasks it (VT-d)', () => {
    const messages: number[][] = [];
    const target = move(vtdBench(ram()), (copy) =>
      makeVtd(copy, { raiseMsi: (address, data) => messages.push([address, data]) }),
    );
    expect(messages).to.deep.equal([]);
    target.write(vtd.FECTL_REG, 4, 0);
    expect(messages).to.deep.equal([[0xfee00000, 0x41]]);
  });

  it('continues the queue after the last descriptor (VT-d)', () => {
    const target = move(vtdBench(ram()), (copy) => makeVtd(copy));
    target.ram.write32(0x17000, 0);
    waitDescriptor(target, 1);
    expect(target.ram.read32(0x17000)).to.equal(9);
    expect(target.iommu.readRegister(vtd.IQH_REG, 8)).to.equal(32n);
  });

  it('disables the queue after a last descriptor that was a wait on the source (VT-d, QEMU)', () => {
    const target = move(vtdBench(ram(), { quirks: 'qemu' }), (copy) => makeVtd(copy, { quirks: 'qemu' }));
    target.write(vtd.GCMD_REG, 4, vtd.GCMD_TE);
    expect(Number(target.iommu.readRegister(vtd.GSTS_REG, 4)) & vtd.GCMD_QIE).to.equal(0);
  });

  it('shows a changed entry before its invalidation, and equals the source after it (VT-d)', () => {
    const source = vtdBench(ram());
    write64(source.ram, leafOf(0x7000), 0x180000 + 3);
    const target = move(source, (copy) => makeVtd(copy));
    expect(source.notifier(FIRST).mappingAt(0x7000)).to.equal(undefined);
    expect(target.notifier(FIRST).mappingAt(0x7000)?.gpa).to.equal(0x180000);
    const words = [vtd.QI_IOTLB | (vtd.IOTLB_PAGE << 4) | (7 << 16), 0, 0x7000, 0];
    for (const bench of [source, target]) {
      for (const [i, word] of words.entries()) bench.ram.write32(0x16010 + 4 * i, word);
      bench.write(vtd.IQT_REG, 8, 32);
    }
    expect(target.held).to.deep.equal(source.held);
    expect(source.notifier(FIRST).mappingAt(0x7000)?.gpa).to.equal(0x180000);
  });

  it('continues commands, events and the suppression of a device (AMD-Vi)', () => {
    const target = move(amdBench(ram()), (copy) => makeAmd(copy));
    amdCommands(target, waitCommand(11));
    expect(target.ram.read32(STATUS)).to.equal(11);
    const tail = target.iommu.readRegister(amdvi.EVENT_TAIL_REG, 8);
    target.translate(FIRST, 0x7000);
    expect(target.iommu.readRegister(amdvi.EVENT_TAIL_REG, 8)).to.equal(tail);
    target.translate(SECOND, 0x7000);
    expect(target.iommu.readRegister(amdvi.EVENT_TAIL_REG, 8)).to.equal(tail + 16n);
  });

  it('looks up the devices that were looked up before (AMD-Vi, QEMU)', () => {
    const options = { quirks: 'qemu' as const };
    const target = move(amdBench(ram(), options), (copy) => makeAmd(copy, options));
    expect(target.translate(FIRST, 0x5000)).to.include({ ok: true, gpa: 0x100000 });
    expect(target.translate(0x30, 0x5000)).to.include({ ok: true, gpa: 0x5000 });
  });

  it('keeps a command buffer stopped (AMD-Vi)', () => {
    const source = amdBench(ram());
    amdCommands(source, [0, 0xf000_0000, 0, 0]);
    const target = move(source, (copy) => makeAmd(copy));
    amdCommands(target, waitCommand(11));
    expect(target.ram.read32(STATUS)).to.equal(9);
    expect(target.iommu.readRegister(amdvi.STATUS_REG, 8) & amdvi.STATUS.CMD_BUF_RUN).to.equal(0n);
  });

  it('is not saved during a command (AMD-Vi)', async () => {
    const bench = amdBench(ram());
    bench.notifier(FIRST).hold();
    const done = bench.write(amdvi.CONTROL_REG, 8, 0);
    expect(() => bench.iommu.save()).to.throw(
      'AMD-Vi: a register command or the command buffer is under way',
    );
    bench.notifier(FIRST).release();
    await done;
    expect(bench.iommu.save().length).to.be.greaterThan(0);
  });

  it('distinguishes an endpoint with a failed ATTACH from an unused one (virtio, QEMU)', () => {
    const options = { quirks: 'qemu' as const };
    const source = virtioBench(ram(), options);
    // The domain exists and is not a bypass domain.
    expect(request(source, attachRequest(3, SECOND, format.ATTACH_F_BYPASS))).to.equal(format.S_INVAL);
    const target = move(source, (copy) => makeVirtio(copy, options));
    const refused = { ok: false, reason: format.FAULT_DOMAIN };
    expect(source.translate(SECOND, 0x5000)).to.include(refused);
    expect(target.translate(SECOND, 0x5000)).to.include(refused);
    expect(target.translate(SECOND, 0xfee00000, true)).to.include({ ok: true });
  });

  it('removes a domain with its last endpoint after the move (virtio)', () => {
    const target = move(virtioBench(ram()), (copy) => makeVirtio(copy));
    expect(request(target, unmapRequest(3, 0x9000, 0x1000))).to.equal(format.S_OK);
    target.iommu.detach(FIRST);
    target.iommu.detach(SECOND);
    expect(request(target, unmapRequest(3, 0x5000, 0x2000))).to.equal(format.S_NOENT);
  });

  it('reads and translates TCEs beyond 2^53 after the move (spapr)', () => {
    const source = spaprBench(ram());
    const target = move(source, (CASES.spapr as (typeof CASES)[string]).make as never);
    const liobn = BigInt(liobnOf(0, 1));
    const start = DYNAMIC_WINDOW_START;
    const read = target.iommu.hypercall(spapr.H_GET_TCE, [liobn, BigInt(start)]);
    expect(read).to.deep.equal({ ret: spapr.H_SUCCESS, out: [0x110003n] });
    expect(target.translate(FIRST, start + 4096, true)).to.include({ ok: true, gpa: 0x111000 });
    expect(target.iommu.liveTces).to.equal(source.iommu.liveTces);
  });

  it('is not saved during a switch (VT-d)', async () => {
    const bench = vtdBench(ram());
    bench.notifier(FIRST).hold();
    const done = bench.write(vtd.GCMD_REG, 4, vtd.GCMD_QIE);
    expect(() => bench.iommu.save()).to.throw(
      'VT-d: a register command or the invalidation queue is under way',
    );
    bench.notifier(FIRST).release();
    await done;
    expect(bench.iommu.save().length).to.be.greaterThan(0);
  });

  it('is not saved during a request or a reset (virtio)', async () => {
    const bench = virtioBench(ram());
    bench.notifier(FIRST).hold();
    expect(request(bench, unmapRequest(3, 0x9000, 0x1000))).to.equal(undefined);
    const reset = bench.write(0x70, 4, 0);
    expect(() => bench.iommu.save()).to.throw('virtio-iommu: a request, bypass or a reset is under way');
    bench.notifier(FIRST).release();
    await reset;
    expect(bench.iommu.save().length).to.be.greaterThan(0);
  });

  it('is not saved during a hypercall (spapr)', async () => {
    const bench = spaprBench(ram());
    bench.notifier(FIRST).hold();
    const call = bench.iommu.hypercall(spapr.H_PUT_TCE, [BigInt(liobnOf(0, 0)), 0n, 0n]);
    expect(() => bench.iommu.save()).to.throw('spapr: a hypercall is under way');
    bench.notifier(FIRST).release();
    await call;
    expect(bench.iommu.save().length).to.be.greaterThan(0);
  });
});
