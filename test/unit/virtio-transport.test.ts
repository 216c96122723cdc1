/**
 * The registers of a virtio device over MMIO, with devices that do nothing but reset.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as virtio from '../../src/abi/virtio.ts';
import { MmioTransport, type VirtioDevice } from '../../src/virtio/mmio-transport.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';

const FEATURES = virtio.F_VERSION_1 | virtio.F_EVENT_IDX;
const [DESC, AVAIL, USED] = [0x1000, 0x2000, 0x3000];
const { STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK, STATUS_FEATURES_OK } = virtio;
const NEGOTIATED = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;

/** A device with two queues, and the driver's accesses to its registers. */
class Rig {
  readonly notified: number[] = [];
  interrupts = 0;
  readonly transport: MmioTransport;

  constructor(features = FEATURES) {
    const device: VirtioDevice = {
      deviceId: 23,
      features,
      queueSizes: [8, 4],
      config: { read: () => 0n, write: () => undefined },
      notified: (queue) => void this.notified.push(queue),
      reset: () => undefined,
    };
    this.transport = new MmioTransport(smallRam(2 * MIB), device, () => void this.interrupts++);
  }

  set(register: number, value: number): this {
    this.transport.write(register, 4, BigInt(value));
    return this;
  }

  get(register: number): number {
    return Number(this.transport.read(register, 4));
  }

  negotiate(features = FEATURES): this {
    for (const half of [0, 1])
      this.set(virtio.DRIVER_FEATURES_SEL_REG, half).set(
        virtio.DRIVER_FEATURES_REG,
        Number((features >> BigInt(32 * half)) & 0xffff_ffffn),
      );
    return this.set(virtio.STATUS_REG, NEGOTIATED);
  }

  /** Configures a queue and enables it. */
  enable(queue: number, size: number): this {
    return this.set(virtio.QUEUE_SEL_REG, queue)
      .set(virtio.QUEUE_SIZE_REG, size)
      .set(virtio.QUEUE_DESC_LOW_REG, DESC)
      .set(virtio.QUEUE_DRIVER_LOW_REG, AVAIL)
      .set(virtio.QUEUE_DEVICE_LOW_REG, USED)
      .set(virtio.QUEUE_READY_REG, 1);
  }

  start(): this {
    return this.set(virtio.STATUS_REG, NEGOTIATED | STATUS_DRIVER_OK);
  }
}

describe('virtio over MMIO', () => {
  it('notifies the device of ready queues from DRIVER_OK on', () => {
    const rig = new Rig().negotiate().enable(0, 8);
    rig.set(virtio.QUEUE_NOTIFY_REG, 0);
    expect(rig.notified, 'before DRIVER_OK').to.deep.equal([]);
    rig
      .start()
      .set(virtio.QUEUE_NOTIFY_REG, 0)
      .set(virtio.QUEUE_NOTIFY_REG, 1)
      .set(virtio.QUEUE_NOTIFY_REG, 9);
    expect(rig.notified).to.deep.equal([0]);
  });

  it('negotiates offered features once, until a reset', () => {
    const rig = new Rig().negotiate(FEATURES | (1n << 40n) | 4n);
    expect(rig.transport.features).to.equal(FEATURES);
    rig.negotiate(virtio.F_VERSION_1);
    expect(rig.transport.features, 'FEATURES_OK is set already').to.equal(FEATURES);
    rig.set(virtio.STATUS_REG, 0);
    expect(rig.transport.features).to.equal(0n);
    rig.negotiate(virtio.F_VERSION_1);
    expect(rig.transport.features).to.equal(virtio.F_VERSION_1);
  });

  it('disables its queues at a reset', () => {
    const rig = new Rig().negotiate().enable(1, 4).start();
    expect(rig.get(virtio.QUEUE_READY_REG)).to.equal(1);
    rig.set(virtio.STATUS_REG, 0);
    expect(rig.transport.queues.map(({ ready }) => ready)).to.deep.equal([false, false]);
    rig.negotiate().start().set(virtio.QUEUE_NOTIFY_REG, 1);
    expect(rig.notified).to.deep.equal([]);
  });

  it('enables queues up to their sizes, and resets one only with RING_RESET', () => {
    const rig = new Rig().negotiate().enable(1, 8);
    expect(rig.get(virtio.QUEUE_READY_REG), 'of 4 entries at most').to.equal(0);
    rig.enable(1, 4);
    expect(rig.get(virtio.QUEUE_READY_REG)).to.equal(1);
    rig.set(virtio.QUEUE_RESET_REG, 1);
    expect(rig.get(virtio.QUEUE_READY_REG), 'without the feature').to.equal(1);
    const features = FEATURES | virtio.F_RING_RESET;
    const other = new Rig(features).negotiate(features).enable(1, 4).set(virtio.QUEUE_RESET_REG, 1);
    expect([other.get(virtio.QUEUE_READY_REG), other.transport.queues[1]?.ready]).to.deep.equal([0, false]);
  });

  it('interrupts for NEEDS_RESET while it is live, and clears acknowledged causes alone', () => {
    const early = new Rig().negotiate();
    early.transport.needsReset();
    expect([early.interrupts, early.transport.status]).to.deep.equal([
      0,
      NEGOTIATED | virtio.STATUS_NEEDS_RESET,
    ]);
    const rig = new Rig().negotiate().start();
    rig.transport.interrupt(virtio.INTERRUPT_USED);
    rig.transport.needsReset();
    rig.transport.needsReset();
    expect(rig.interrupts).to.equal(2);
    rig.set(virtio.INTERRUPT_ACK_REG, virtio.INTERRUPT_USED);
    expect(rig.get(virtio.INTERRUPT_STATUS_REG)).to.equal(virtio.INTERRUPT_CONFIG);
  });

  it('moves to another host with its queues, and with a size that is written but not in use', () => {
    const rig = new Rig().negotiate().enable(0, 8).start();
    rig.set(virtio.QUEUE_SEL_REG, 1).set(virtio.QUEUE_SIZE_REG, 2);
    const there = new Rig();
    there.transport.restore(rig.transport.save());
    expect(there.transport.queues[0]?.state).to.deep.equal(rig.transport.queues[0]?.state);
    expect(there.transport.queues[0]?.state).to.deep.include({ eventIdx: true });
    expect(there.get(virtio.QUEUE_SIZE_REG)).to.equal(2);
    expect(there.transport.save()).to.deep.equal(rig.transport.save());
  });

  it('resets a device once for several requests during the reset', async () => {
    const waiting: (() => void)[] = [];
    const transport = new MmioTransport(smallRam(2 * MIB), {
      deviceId: 23,
      features: 0n,
      queueSizes: [8],
      config: { read: () => 0n, write: () => undefined },
      notified: () => undefined,
      reset: () => new Promise<void>((resolve) => waiting.push(resolve)),
    });
    const reset = () => transport.write(virtio.STATUS_REG, 4, 0n);
    const works = Array.from({ length: 1000 }, reset);
    expect(waiting).to.have.length(1);
    expect(transport.status).to.equal(virtio.STATUS_ACKNOWLEDGE);
    expect(transport.live).to.equal(false);
    waiting[0]!();
    await Promise.all(works);
    expect(transport.status).to.equal(0);
    const again = reset();
    expect(waiting).to.have.length(2);
    waiting[1]!();
    await again;
    expect(transport.status).to.equal(0);
  });
});
