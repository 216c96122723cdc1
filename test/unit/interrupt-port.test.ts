/**
 * A device's interrupts while its vIOMMU remaps them: messages through the link.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { DeviceLink, MAX_VECTORS } from '../../src/channel/device-link.ts';
import { InterruptPort } from '../../src/device/interrupt-port.ts';
import { ConfigSpace } from '../../src/pci/config-space.ts';

function setUp() {
  const link = new DeviceLink();
  const rings = { count: 0 };
  const port = new InterruptPort(link, {
    messageOf: (vector) => ({ address: 0x5_fee0_0010, data: 0x8000_0000 + vector }),
    ringCoordinator: () => {
      rings.count++;
    },
  });
  const taken: (readonly [number, number, number, number])[] = [];
  const take = () => {
    link.takeMessages((vector, { address, data }, count) => taken.push([vector, address, data, count]));
    return taken.splice(0);
  };
  return { link, port, rings, take };
}

describe('InterruptPort', () => {
  it('counts interrupts for the guest while messages pass as they are', () => {
    const { link, port, rings, take } = setUp();
    port.countInterrupts(3, 2);
    port.wakeGuest();
    expect([link.interrupts(3), rings.count, take()]).to.deep.equal([2, 0, []]);
  });

  it('posts messages while they are remapped, each once, and rings the coordinator', () => {
    const { link, port, rings, take } = setUp();
    link.remapsInterrupts = true;
    port.countInterrupts(MAX_VECTORS - 1, 2);
    port.countInterrupts(0, 1);
    port.countInterrupts(0, 1);
    expect(rings.count).to.equal(0);
    port.wakeGuest();
    expect([link.interrupts(0), rings.count]).to.deep.equal([0, 1]);
    expect(take()).to.deep.equal([
      [0, 0x5_fee0_0010, 0x8000_0000, 2],
      [MAX_VECTORS - 1, 0x5_fee0_0010, 0x8000_001f, 2],
    ]);
    expect(take()).to.deep.equal([]);
    link.remapsInterrupts = false;
    port.countInterrupts(0, 1);
    port.wakeGuest();
    expect([link.interrupts(0), rings.count, take()]).to.deep.equal([1, 1, []]);
  });
});

describe('message of an MSI vector', () => {
  it('has the vector in its data, and a 64-bit address', () => {
    const config = new ConfigSpace({
      vendorId: 1,
      deviceId: 1,
      subsystemVendorId: 1,
      subsystemId: 1,
      revision: 0,
      classCode: 0,
      bar0Bytes: 16,
      msiVectors: 8,
    });
    config.registers.write(0x54, 4, 0xfee0_1000n);
    config.registers.write(0x58, 4, 2n);
    config.registers.write(0x5c, 2, 0x4130n);
    expect(config.messageOf(5)).to.deep.equal({ address: 0x2_fee0_1000, data: 0x4135 });
  });
});
