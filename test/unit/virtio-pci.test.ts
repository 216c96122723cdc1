/**
 * Virtio functions on the bus: the transport's registers, queues reached by DMA, and virtio-rng as the smallest device.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as virtio from '../../src/abi/virtio.ts';
import {
  BUFFERS,
  Common,
  DEVICE_CONFIG,
  ENTRIES,
  ISR,
  VirtioPciDriver,
} from '../fixtures/virtio-pci-driver.ts';

const { F_ACCESS_PLATFORM, F_VERSION_1, STATUS_FEATURES_OK, STATUS_NEEDS_RESET } = virtio;
const WINDOW = 0xa4;
const NONE = new Uint8Array();

describe('virtio over PCI', () => {
  it('lists the capabilities of its structures, each within its BAR', () => {
    const { bus } = new VirtioPciDriver('virtio-rng');
    const types: number[] = [];
    for (let at = Number(bus.readConfig(0x34, 1)); at !== 0; at = Number(bus.readConfig(at + 1, 1))) {
      if (bus.readConfig(at, 1) !== 9n) continue;
      const type = Number(bus.readConfig(at + 3, 1));
      types.push(type);
      if (type === virtio.CAP_WINDOW) continue;
      expect(bus.readConfig(at + 4, 1)).to.equal(0n);
      expect(bus.readConfig(at + 8, 4) + bus.readConfig(at + 12, 4) <= 0x4000n).to.equal(true);
    }
    expect(types.sort()).to.deep.equal([1, 2, 3, 4, 5]);
    expect([bus.readConfig(0, 2), bus.readConfig(2, 2)]).to.deep.equal([0x1af4n, 0x1044n]);
  });

  it('accepts features only with VERSION_1 and ACCESS_PLATFORM, and only those it offers', () => {
    const driver = new VirtioPciDriver('virtio-rng');
    expect(driver.offered & (F_VERSION_1 | F_ACCESS_PLATFORM)).to.equal(F_VERSION_1 | F_ACCESS_PLATFORM);
    const accepted = (features: bigint) => (driver.negotiate(features) & STATUS_FEATURES_OK) !== 0;
    expect(accepted(F_VERSION_1)).to.equal(false);
    expect(accepted(F_ACCESS_PLATFORM)).to.equal(false);
    expect(accepted(F_VERSION_1 | F_ACCESS_PLATFORM | 1n)).to.equal(false);
    expect(accepted(F_VERSION_1 | F_ACCESS_PLATFORM)).to.equal(true);
  });

  it('keeps a queue’s registers apart from another’s, and refuses sizes and vectors that it does not have', () => {
    const driver = new VirtioPciDriver('virtio-gpu');
    driver.negotiate();
    const select = (queue: number) => driver.write(Common.queueSelect, 2, queue);
    select(0);
    driver.write(Common.queueSize, 2, 32);
    driver.write(Common.desc, 8, 0x1_2345_6780n);
    select(1);
    expect(driver.read(Common.desc, 8)).to.equal(0);
    driver.write(Common.queueSize, 2, 1024);
    expect(driver.read(Common.queueSize, 2)).to.be.below(1024);
    driver.write(Common.queueVector, 2, 3);
    expect(driver.read(Common.queueVector, 2)).to.equal(virtio.NO_VECTOR);
    driver.write(Common.queueVector, 2, 2);
    expect(driver.read(Common.queueVector, 2)).to.equal(2);
    select(0);
    expect([driver.read(Common.queueSize, 2), driver.read(Common.desc, 8)]).to.deep.equal([
      32, 0x1_2345_6780,
    ]);
    select(2);
    expect([driver.read(Common.queueSize, 2), driver.read(Common.queueEnable, 2)]).to.deep.equal([0, 0]);
    driver.write(Common.status, 1, 0);
    select(0);
    expect(driver.read(Common.desc, 8)).to.equal(0);
  });

  it('reaches its registers through configuration space', () => {
    const { bus } = new VirtioPciDriver('virtio-rng');
    bus.writeConfig(WINDOW + 8, 4, BigInt(Common.queueSelect));
    bus.writeConfig(WINDOW + 12, 4, 2n);
    bus.writeConfig(WINDOW + 16, 4, 0x5n);
    expect(bus.read(0, Common.queueSelect, 2)).to.equal(5n);
    expect(bus.readConfig(WINDOW + 16, 2)).to.equal(5n);
    bus.writeConfig(WINDOW + 4, 1, 1n);
    expect(bus.readConfig(WINDOW + 16, 4)).to.equal(0xffff_ffffn);
    bus.close();
  });
});

describe('virtio-rng', () => {
  it('fills buffers by DMA, and interrupts by the queue’s vector', () => {
    const driver = new VirtioPciDriver('virtio-rng').start(1);
    const first = driver.request(0, NONE, 64);
    const second = driver.request(0, NONE, 64);
    expect([first.length, second.length]).to.deep.equal([64, 64]);
    expect(first.equals(second)).to.equal(false);
    expect(new Set(first).size).to.be.greaterThan(32);
    expect(driver.bus.interrupts).to.deep.equal([1, 1]);
    expect(driver.bus.metric('random bytes')).to.equal(128);
    driver.bus.close();
  });

  it('goes around its rings', () => {
    const driver = new VirtioPciDriver('virtio-rng').start(1);
    for (let i = 0; i < 3 * ENTRIES; i++) expect(driver.request(0, NONE, 16)).to.have.length(16);
    driver.bus.close();
  });

  it('is silent before DRIVER_OK, after a reset, and without bus mastering', () => {
    const driver = new VirtioPciDriver('virtio-rng');
    driver.negotiate();
    driver.enable(0);
    driver.offer(0, [16]);
    driver.bus.run();
    expect(driver.taken(0)).to.equal(undefined);
    driver.start(1);
    driver.bus.writeConfig(4, 2, 2n);
    driver.offer(0, [16]);
    driver.bus.run();
    expect(driver.taken(0)).to.equal(undefined);
    driver.bus.writeConfig(4, 2, 6n);
    driver.bus.run();
    expect(driver.taken(0)).to.equal(16);
    driver.write(Common.status, 1, 0);
    driver.offer(0, [16]);
    driver.bus.run();
    expect(driver.taken(0)).to.equal(undefined);
    expect(driver.bus.faults).to.deep.equal([]);
    driver.bus.close();
  });

  it('needs a reset after a buffer without a mapping, whose fault is recorded', () => {
    const driver = new VirtioPciDriver('virtio-rng').start(1);
    driver.offer(0, [16], 0x1000);
    driver.bus.run();
    expect(driver.bus.faults).to.deep.equal([{ iova: 0x1000, write: true, denied: false }]);
    expect(driver.read(Common.status, 1) & STATUS_NEEDS_RESET).to.equal(STATUS_NEEDS_RESET);
    driver.start(1);
    expect(driver.request(0, NONE, 16)).to.have.length(16);
    driver.bus.close();
  });

  it('needs a reset after a chain that loops', () => {
    const driver = new VirtioPciDriver('virtio-rng').start(1);
    driver.offer(0, [Uint8Array.of(1), 16]);
    // The second descriptor continues at the first.
    driver.bus.ram.write32(0x1_0000 + 16 + 12, virtio.DESC_F_WRITE | virtio.DESC_F_NEXT);
    driver.bus.run();
    expect(driver.read(Common.status, 1) & STATUS_NEEDS_RESET).to.equal(STATUS_NEEDS_RESET);
    driver.bus.close();
  });

  it('repeats a chain that a switch of the address space has stalled, with the same bytes', () => {
    const driver = new VirtioPciDriver('virtio-rng').start(1);
    driver.bus.switching(true);
    driver.offer(0, [16], 0x1000);
    expect(driver.bus.run()).to.equal('stalled');
    expect(driver.taken(0)).to.equal(undefined);
    driver.bus.map({ iova: 0x1000, gpa: BUFFERS, size: 0x1000 });
    driver.bus.switching(false);
    driver.bus.run();
    expect(driver.taken(0)).to.equal(16);
    expect(driver.bus.metric('random bytes')).to.equal(16);
    expect(driver.bus.faults).to.deep.equal([]);
    driver.bus.close();
  });

  it('sets the interrupt status while MSI-X is disabled, and a read clears it', () => {
    const driver = new VirtioPciDriver('virtio-rng').start(1);
    driver.bus.writeConfig(0x62, 2, 0n);
    driver.request(0, NONE, 16);
    expect(driver.bus.readConfig(6, 2) & 8n).to.equal(8n);
    expect([driver.read(ISR, 1), driver.read(ISR, 1)]).to.deep.equal([1, 0]);
    expect(driver.bus.readConfig(6, 2) & 8n).to.equal(0n);
    expect(driver.bus.interrupts).to.deep.equal([]);
    driver.bus.close();
  });

  it('stops a queue that its driver resets alone', () => {
    const driver = new VirtioPciDriver('virtio-rng');
    driver.start(1, F_VERSION_1 | F_ACCESS_PLATFORM | virtio.F_RING_RESET);
    driver.write(Common.queueReset, 2, 1);
    expect([driver.read(Common.queueReset, 2), driver.read(Common.queueEnable, 2)]).to.deep.equal([0, 0]);
    driver.enable(0);
    expect(driver.request(0, NONE, 16)).to.have.length(16);
    expect(driver.read(DEVICE_CONFIG, 4)).to.equal(0);
    driver.bus.close();
  });
});
