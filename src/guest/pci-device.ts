/**
 * The guest's end of a device that it has no driver for: configuration space, BARs, interrupts. Scripts are its driver.
 */

import { nowUs } from '#host';
import { DeviceLink, DeviceState, MAX_VECTORS } from '../channel/device-link.ts';
import { type MmioPort, REGION_CONFIG } from '../channel/mmio-channel.ts';
import type { AccessSize } from '../memory/bus-access.ts';
import {
  COMMAND_BUS_MASTER,
  COMMAND_IO_SPACE,
  COMMAND_MEMORY_SPACE,
  MSI_CAPABILITY,
  MSI_CONTROL_ENABLE,
} from '../pci/config-space.ts';
import { DeviceLostError } from './gpu/driver.ts';
import { screenshot } from './gpu/screenshot.ts';
import type { DmaApi } from './iommu/dma-api.ts';
import { placeBars } from './place-bars.ts';
import type { GuestDevice } from './protocol.ts';

/** How long a guest waits for an interrupt, unless it says otherwise. */
const INTERRUPT_TIMEOUT_MS = 10_000;
/** The wait is cut this often, to see whether the device is still there. */
const INTERRUPT_LOOK_MS = 500;

/** An interrupt did not come in time. */
export class InterruptTimeoutError extends Error {
  constructor(device: string, vector: number, timeoutMs: number) {
    super(`${device} raised no interrupt ${vector} within ${timeoutMs} ms`);
    this.name = 'InterruptTimeoutError';
  }
}

export class GuestPciDevice {
  readonly name: string;
  readonly index: number;
  readonly requesterId: number;
  readonly dma: DmaApi;
  readonly #link: DeviceLink;
  readonly #mmio: MmioPort;

  constructor(device: GuestDevice, index: number, dma: DmaApi) {
    this.name = device.name;
    this.index = index;
    this.requesterId = device.requesterId;
    this.dma = dma;
    this.#link = new DeviceLink(device.link);
    this.#mmio = this.#link.mmioPort();
  }

  /** True until the device has been lost. */
  get alive(): boolean {
    return this.#link.state === DeviceState.ready;
  }

  /**
   * What a driver does first: sizes and places the BARs, enables their spaces, bus mastering and all MSI vectors.
   * @throws DeviceLostError
   */
  async start(): Promise<void> {
    await placeBars(this.#mmio, this.index);
    await this.writeConfig(0x04, 2, COMMAND_BUS_MASTER | COMMAND_IO_SPACE | COMMAND_MEMORY_SPACE);
    await this.writeConfig(MSI_CAPABILITY + 4, 4, 0xfee0_0000);
    await this.writeConfig(MSI_CAPABILITY + 12, 2, 0x30 + this.index);
    const control = Number(await this.readConfig(MSI_CAPABILITY + 2, 2));
    const every = ((control >>> 1) & 7) << 4;
    await this.writeConfig(MSI_CAPABILITY + 2, 2, control | every | MSI_CONTROL_ENABLE);
    this.#throwIfLost();
  }

  /** All ones from a lost device, as from every read. */
  readConfig(offset: number, size: 1 | 2 | 4): Promise<bigint> {
    return this.#mmio.read(REGION_CONFIG, offset, size);
  }

  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void | Promise<void> {
    return this.#mmio.write(REGION_CONFIG, offset, size, BigInt(value));
  }

  /** Reads `size` bytes of a BAR. */
  read(bar: number, offset: number, size: AccessSize): Promise<bigint> {
    return this.#mmio.read(bar, offset, size);
  }

  /** Posts a write to a BAR; a read waits until all writes before it are done. */
  write(bar: number, offset: number, size: AccessSize, value: number | bigint): void | Promise<void> {
    return this.#mmio.write(bar, offset, size, BigInt(value));
  }

  /**
   * Reads many bytes of a BAR, as a string of reads (`rep movs`): far faster than one by one.
   * All ones beyond the BAR's end, from a BAR that is not enabled, and from a lost device.
   */
  async readBlock(bar: number, offset: number, bytes: number): Promise<Uint8Array> {
    const block = new Uint8Array(bytes);
    await this.#mmio.readBlock(bar, offset, block);
    return block;
  }

  /** Writes many bytes of a BAR; resolves when the device has them. */
  writeBlock(bar: number, offset: number, bytes: Uint8Array): Promise<void> {
    return this.#mmio.writeBlock(bar, offset, bytes);
  }

  /**
   * The PNG of what the device displays now, also written to `file` if one is named.
   * @throws NoScanoutError, or the file's error
   */
  screenshot(file?: string): Promise<Uint8Array> {
    return screenshot(this.name, this.#mmio, file);
  }

  /** Interrupts raised on `vector` so far, modulo 2^32. @throws RangeError */
  interrupts(vector: number): number {
    if (!(Number.isInteger(vector) && vector >= 0 && vector < MAX_VECTORS))
      throw new RangeError(`interrupt vector ${vector}; accepted: 0 to ${MAX_VECTORS - 1}`);
    return this.#link.interrupts(vector);
  }

  /**
   * Waits until `vector` has been raised more often than `seen` times; resolves to how often.
   * @throws InterruptTimeoutError, DeviceLostError
   */
  async waitInterrupt(vector: number, seen: number, timeoutMs = INTERRUPT_TIMEOUT_MS): Promise<number> {
    const deadline = nowUs() + timeoutMs * 1000;
    for (;;) {
      const { events } = this.#link;
      const raised = this.interrupts(vector);
      if (raised !== seen) return raised;
      this.#throwIfLost();
      const leftMs = (deadline - nowUs()) / 1000;
      if (leftMs <= 0) throw new InterruptTimeoutError(this.name, vector, timeoutMs);
      await this.#link.waitEvents(events, Math.min(leftMs, INTERRUPT_LOOK_MS));
    }
  }

  #throwIfLost(): void {
    if (!this.alive) throw new DeviceLostError(this.name);
  }
}
