/**
 * `virtio-gpu`: a 2D GPU with one display (virtio 1.3 section 5.7). Resources are in the device's own memory. The guest
 * memory attached to them is found through the vIOMMU and stays pinned while it is attached.
 */
import type { Scanout } from '../../abi/scanout.ts';
import { CURSOR_QUEUE, GPU_DEVICE_ID, GPU_F_EDID } from '../../abi/virtio-gpu.ts';
import type { DeviceContext, DeviceModel } from '../../device/model.ts';
import type { Iova } from '../../memory/address.ts';
import type { Chain } from '../../virtio/chain.ts';
import type { PciTransport } from '../../virtio/pci-transport.ts';
import { type Performed, type VirtioBehaviour, VirtioFunction, type VirtioKind } from '../virtio/function.ts';
import { GpuCommands, REQUEST_BYTES_MAX } from './commands.ts';

/** Size of the display, in pixels. */
const DISPLAY = { width: 1024, height: 768 };

const VIRTIO_GPU: VirtioKind = {
  deviceId: GPU_DEVICE_ID,
  classCode: 0x03_80_00,
  features: GPU_F_EDID,
  queueSizes: [256, 16],
  configRegisters: [
    { name: 'EventsRead', offset: 0, size: 4 },
    { name: 'EventsClear', offset: 4, size: 4, rw: 0xffff_ffffn },
    { name: 'ScanoutCount', offset: 8, size: 4, reset: 1n },
    { name: 'CapsetCount', offset: 12, size: 4 },
  ],
};

export function createVirtioGpu(context: DeviceContext): DeviceModel {
  return new VirtioFunction(context, VIRTIO_GPU, (transport) => new VirtioGpu(context, transport));
}

class VirtioGpu implements VirtioBehaviour {
  readonly #commands: GpuCommands;
  readonly #context: DeviceContext;
  readonly #transport: () => PciTransport;

  constructor(context: DeviceContext, transport: () => PciTransport) {
    this.#context = context;
    this.#transport = transport;
    this.#commands = new GpuCommands(context.dma, DISPLAY);
  }

  perform(queue: number, chain: Chain): Performed {
    const request = new Uint8Array(Math.min(chain.readableBytes, REQUEST_BYTES_MAX));
    chain.read(request);
    const hasEdid = (this.#transport().features & GPU_F_EDID) !== 0n;
    const { response, commit } = this.#commands.perform(request, queue === CURSOR_QUEUE, hasEdid);
    const written = chain.write(0, response);
    return {
      written,
      commit: () => {
        commit?.();
        this.#context.metrics.add('commands');
        if (new DataView(response.buffer).getUint32(0, true) >= 0x1200)
          this.#context.metrics.add('failed commands');
        this.#context.metrics.set('flushes', this.#commands.display.flushes);
      },
    };
  }

  reset(): void {
    this.#commands.reset();
  }

  dmaUnmap(iova: Iova, size: number): void {
    this.#commands.dmaUnmap(iova, size);
  }

  scanout(): Scanout | undefined {
    return this.#commands.display.scanout();
  }
}
