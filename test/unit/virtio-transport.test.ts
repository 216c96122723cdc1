/**
 * The registers of a virtio device over MMIO, with a device that resets slowly.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import * as virtio from '../../src/abi/virtio.ts';
import { MmioTransport } from '../../src/virtio/mmio-transport.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';

describe('virtio over MMIO', () => {
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
