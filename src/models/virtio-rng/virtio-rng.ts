/**
 * `virtio-rng`: the entropy device (virtio 1.3 section 5.4). It fills the driver's buffers with random bytes.
 */
import type { DeviceContext, DeviceModel } from '../../device/model.ts';
import { VirtioFunction, type VirtioKind } from '../virtio/function.ts';

/** Most bytes of one request; the driver asks again for the others. */
const REQUEST_BYTES_MAX = 4096;

const VIRTIO_RNG: VirtioKind = {
  deviceId: 4,
  classCode: 0x00_ff_00,
  features: 0n,
  queueSizes: [64],
  configRegisters: [],
};

export function createVirtioRng(context: DeviceContext): DeviceModel {
  /** Bytes of the request that is in progress: it may be repeated after a stall. */
  let bytes: Uint8Array | undefined;
  return new VirtioFunction(context, VIRTIO_RNG, () => ({
    perform: (_queue, chain) => {
      const length = Math.min(chain.writableBytes, REQUEST_BYTES_MAX);
      if (bytes?.length !== length) {
        bytes = new Uint8Array(length);
        context.random(bytes);
      }
      chain.write(0, bytes);
      return {
        written: length,
        commit: () => {
          bytes = undefined;
          context.metrics.add('random bytes', length);
        },
      };
    },
    reset: () => {
      bytes = undefined;
    },
  }));
}
