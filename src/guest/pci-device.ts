/**
 * A PCI device without a driver in the guest: configuration space, BARs and interrupts. The script is its driver.
 */

import { nowUs } from '#host';
import { DeviceLink, DeviceState, MAX_VECTORS } from '../channel/device-link.ts';
import type { Gate } from '../channel/gate.ts';
import { type MmioPort, REGION_CONFIG } from '../channel/mmio-channel.ts';
import type { AccessSize } from '../memory/bus-access.ts';
import {
  COMMAND_BUS_MASTER,
  COMMAND_IO_SPACE,
  COMMAND_MEMORY_SPACE,
  MSI_CAPABILITY,
  MSI_CONTROL_ENABLE,
} from '../pci/config-space.ts';
import { DeviceLostError } from './gpu/errors.ts';
import { screenshot } from './gpu/screenshot.ts';
import { InFlightError } from './in-flight.ts';
import type { DmaApi } from './iommu/dma-api.ts';
import { placeBars } from './place-bars.ts';
import type { GuestDevice } from './protocol.ts';

/** Default time limit for an interrupt. */
const INTERRUPT_TIMEOUT_MS = 10_000;
/** Interval at which a wait checks whether the device is lost. */
const LOSS_CHECK_MS = 500;

/** Thrown when an interrupt does not arrive in time. */
export class InterruptTimeoutError extends Error {
  constructor(device: string, vector: number, timeoutMs: number) {
    super(`${device} raised no interrupt ${vector} within ${timeoutMs} ms`);
    this.name = 'InterruptTimeoutError';
  }
}

/** A device without a driver in the guest; the script accesses its registers. */
export class GuestPciDevice {
  /** `vmN/devM`. */
  readonly name: string;
  /** Position among the devices of the VM, from 0. */
  readonly index: number;
  /** bus << 8 | device << 3 | function */
  readonly requesterId: number;
  readonly dma: DmaApi;
  readonly #link: DeviceLink;
  readonly #device: GuestDevice;
  readonly #mmio: MmioPort;

  /** While `gate` is closed, because the VM is paused, accesses wait. */
  constructor(device: GuestDevice, index: number, dma: DmaApi, gate?: Gate) {
    this.name = device.name;
    this.index = index;
    this.requesterId = device.requesterId;
    this.#device = device;
    this.dma = dma;
    this.#link = new DeviceLink(device.link);
    this.#mmio = this.#link.mmioPort(gate);
  }

  /** False once the device is lost. */
  get alive(): boolean {
    return this.#link.state === DeviceState.ready;
  }

  /** Sizes and places the BARs, enables their spaces, bus mastering and all MSI vectors. @throws DeviceLostError */
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

  /** @throws InFlightError while accesses have begun that a migration would cut off */
  expectIdle(): void {
    const { unfinished } = this.#mmio;
    if (unfinished.length > 0) throw new InFlightError(this.name, unfinished);
  }

  /** Reads configuration space. Resolves to all ones if the device is lost, as every read does. */
  readConfig(offset: number, size: 1 | 2 | 4): Promise<bigint> {
    return this.#mmio.read(REGION_CONFIG, offset, size);
  }

  /** Posts a write to configuration space. */
  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void | Promise<void> {
    return this.#mmio.write(REGION_CONFIG, offset, size, BigInt(value));
  }

  /** Reads `size` bytes of a BAR. */
  read(bar: number, offset: number, size: AccessSize): Promise<bigint> {
    return this.#mmio.read(bar, offset, size);
  }

  /** Posts a write to a BAR; a later read waits until all earlier writes are done. */
  write(bar: number, offset: number, size: AccessSize, value: number | bigint): void | Promise<void> {
    return this.#mmio.write(bar, offset, size, BigInt(value));
  }

  /**
   * Reads a block of a BAR as string instructions do (`rep movs`); far faster than single reads. Bytes beyond the
   * BAR, of a disabled BAR and of a lost device are all ones.
   */
  async readBlock(bar: number, offset: number, bytes: number): Promise<Uint8Array> {
    const block = new Uint8Array(bytes);
    await this.#mmio.readBlock(bar, offset, block);
    return block;
  }

  /** Writes a block of a BAR; resolves when the device has it. */
  writeBlock(bar: number, offset: number, bytes: Uint8Array): Promise<void> {
    return this.#mmio.writeBlock(bar, offset, bytes);
  }

  /**
   * Resolves to a PNG of the current scanout; also writes it to `file`, if given, relative to the run's folder.
   * @throws NoScanoutError, or the file's error
   */
  screenshot(file?: string): Promise<Uint8Array> {
    return screenshot(this.#device, this.#mmio, file);
  }

  /** Returns the count of interrupts on `vector` so far, modulo 2^32. @throws RangeError */
  interrupts(vector: number): number {
    if (!(Number.isInteger(vector) && vector >= 0 && vector < MAX_VECTORS))
      throw new RangeError(`interrupt vector ${vector}; accepted: 0 to ${MAX_VECTORS - 1}`);
    return this.#link.interrupts(vector);
  }

  /**
   * Waits until the count of interrupts on `vector` differs from `seen`; resolves to the new count.
   * @throws InterruptTimeoutError, DeviceLostError, RangeError
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
      await this.#link.waitEvents(events, Math.min(leftMs, LOSS_CHECK_MS));
    }
  }

  #throwIfLost(): void {
    if (!this.alive) throw new DeviceLostError(this.name);
  }
}
