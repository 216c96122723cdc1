/**
 * Bus memory of a virtio function: its queues and buffers are found by DMA, through whatever translates its addresses.
 */
import { type DeviceDma, DMA_OK, DMA_RETRY } from '../../device/dma.ts';
import type { Iova } from '../../memory/address.ts';
import type { QueueMemory } from '../../virtio/queue-memory.ts';

/** Thrown by an access that must be repeated by the model's next step. */
export class DmaStalledError extends Error {
  override name = 'DmaStalledError';
}

/** Thrown by an access that the bus has refused. The fault is recorded. */
export class DmaRefusedError extends Error {
  override name = 'DmaRefusedError';
}

/** Addresses are exact up to here; a larger one is refused by the bus. */
const ADDRESS_END: number = 2 ** 53;

/** DMA as the memory of virtqueues. Every method may throw DmaStalledError and DmaRefusedError. */
export class DmaMemory implements QueueMemory {
  readonly #dma: DeviceDma;
  readonly #word = new Uint8Array(4);
  readonly #view = new DataView(this.#word.buffer);

  constructor(dma: DeviceDma) {
    this.#dma = dma;
  }

  contains(address: number, length: number): boolean {
    return address >= 0 && address + length <= ADDRESS_END;
  }

  read32(address: number): number {
    this.readInto(this.#word, 0, address, 4);
    return this.#view.getUint32(0, true);
  }

  load32(address: number): number {
    const value = this.#dma.load32(address as Iova);
    if (value < 0) checkStatus(-value);
    return value;
  }

  write32(address: number, value: number): void {
    this.#view.setUint32(0, value, true);
    this.write(address, this.#word);
  }

  publish32(address: number, value: number): void {
    checkStatus(this.#dma.store32(address as Iova, value));
  }

  readInto(target: Uint8Array, at: number, address: number, length: number): void {
    checkStatus(this.#dma.read(address as Iova, target.subarray(at, at + length)));
  }

  write(address: number, bytes: Uint8Array): void {
    checkStatus(this.#dma.write(address as Iova, bytes));
  }
}

function checkStatus(status: number): void {
  if (status === DMA_OK) return;
  throw status === DMA_RETRY ? new DmaStalledError() : new DmaRefusedError();
}
