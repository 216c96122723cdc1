import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DeviceHarness, PERM_READ } from '../../src/index.ts';
import edu, { BUFFER_BASE, BUFFER_BYTES } from '../../src/models/edu/edu.ts';

const START = 1;
const FROM_BUFFER = 2;
const INTERRUPT = 4;

function enabled(options = {}): DeviceHarness {
  const bus = new DeviceHarness(edu, options);
  bus.enable();
  return bus;
}

function transfer(bus: DeviceHarness, source: number, destination: number, count: number, command: number) {
  bus.write(0, 0x80, 8, source);
  bus.write(0, 0x88, 8, destination);
  bus.write(0, 0x90, 8, count);
  bus.write(0, 0x98, 4, command);
  return bus.run();
}

describe('edu device', () => {
  it('has its IDs, and answers only while memory space is enabled', () => {
    const bus = new DeviceHarness(edu);
    expect(bus.readConfig(0, 4)).to.equal(0x11e8_1234n);
    expect(bus.read(0, 0, 4)).to.equal(0xffff_ffffn);
    bus.enable();
    expect(bus.read(0, 0, 4)).to.equal(0x0100_00edn);
  });

  it('inverts values written to its liveness register', () => {
    const bus = enabled();
    bus.write(0, 4, 4, 0x1234_5678);
    expect(bus.read(0, 4, 4)).to.equal(0xedcb_a987n);
  });

  it('computes a factorial after a delay, with a status bit and an interrupt', () => {
    const bus = enabled();
    bus.write(0, 0x20, 4, 0x80);
    bus.write(0, 8, 4, 10);
    expect(bus.read(0, 0x20, 4), 'computing').to.equal(0x81n);
    bus.run();
    expect(bus.interrupts).to.deep.equal([]);
    bus.advance(10);
    expect([bus.read(0, 8, 4), bus.read(0, 0x20, 4)]).to.deep.equal([3_628_800n, 0x80n]);
    expect([bus.interrupts, bus.read(0, 0x24, 4)]).to.deep.equal([[0], 1n]);
    bus.write(0, 0x64, 4, 1);
    expect(bus.read(0, 0x24, 4), 'acknowledged').to.equal(0n);
    bus.write(0, 8, 4, 0xffff_ffff);
    bus.advance(10);
    expect(bus.read(0, 8, 4), 'modulo 2^32').to.equal(0n);
  });

  it('ignores a write to the factorial while it computes one', () => {
    const bus = enabled();
    bus.write(0, 8, 4, 5);
    bus.advance(5);
    bus.write(0, 8, 4, 7);
    bus.advance(5);
    expect([bus.read(0, 8, 4), bus.read(0, 0x20, 4)]).to.deep.equal([120n, 0n]);
    bus.advance(10);
    expect(bus.read(0, 8, 4)).to.equal(120n);
  });

  it('transfers bytes in both directions, and raises an interrupt on request', () => {
    const bus = enabled({ map: [{ iova: 0x5_0000_0000, gpa: 0x3000, size: 0x2000 }] });
    const bytes = Uint8Array.from({ length: 5000 - 1000 }, (_, i) => i % 251);
    bus.ram.write(0x3ffc, bytes.subarray(0, 3000));
    transfer(bus, 0x5_0000_0ffc, BUFFER_BASE + 8, 3000, START);
    expect(bus.interrupts).to.deep.equal([]);
    transfer(bus, BUFFER_BASE + 8, 0x5_0000_0000, 3000, START | FROM_BUFFER | INTERRUPT);
    expect(bus.ram.equals(0x3000, bytes.subarray(0, 3000))).to.equal(true);
    expect([bus.interrupts, bus.read(0, 0x24, 4), bus.read(0, 0x98, 4)]).to.deep.equal([[0], 0x100n, 6n]);
    expect([bus.metric('transfers'), bus.metric('bytes moved')]).to.deep.equal([2, 6000]);
  });

  it('reports a DMA that faults, and one that exceeds its buffer', () => {
    const bus = enabled({ map: [{ iova: 0, gpa: 0, size: 0x1000, perm: PERM_READ }] });
    transfer(bus, BUFFER_BASE, 0, 64, START | FROM_BUFFER);
    transfer(bus, 0x7000, BUFFER_BASE, 64, START);
    expect(bus.faults).to.deep.equal([
      { iova: 0, write: true, denied: true },
      { iova: 0x7000, write: false, denied: false },
    ]);
    transfer(bus, 0, BUFFER_BASE + 1, BUFFER_BYTES, START);
    expect(bus.metric('failed transfers')).to.equal(3);
    expect(bus.logged).to.have.length(1);
    expect(bus.violations).to.deep.equal([]);
  });

  it('waits during a switch of its address space, and without bus mastering', () => {
    const bus = enabled({ map: [] });
    bus.switching(true);
    expect(transfer(bus, 0, BUFFER_BASE, 64, START)).to.equal('stalled');
    bus.map({ iova: 0, gpa: 0, size: 0x1000 });
    bus.switching(false);
    bus.writeConfig(4, 2, 2n);
    expect([bus.run(), bus.metric('transfers')]).to.deep.equal(['idle', 0]);
    bus.writeConfig(4, 2, 6n);
    expect([bus.run(), bus.metric('transfers'), bus.faults.length]).to.deep.equal(['idle', 1, 0]);
  });
});
