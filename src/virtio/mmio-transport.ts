/**
 * Virtio MMIO transport (virtio 1.3 section 4.2): registers, feature negotiation, status, queue set-up, interrupts.
 */

import * as virtio from '../abi/virtio.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import type { Completion } from '../platform/completion.ts';
import { RegisterFile } from '../registers/register-file.ts';
import { DeviceQueue } from './device-queue.ts';
import { type MmioRegister, mmioRegisterTable, WORD } from './mmio-registers.ts';
import { restoreTransport, saveTransport } from './transport-state.ts';

/** The device behind the transport. */
export interface VirtioDevice {
  readonly deviceId: number;
  /** Offered features. */
  readonly features: bigint;
  /** Maximum entries of each queue. */
  readonly queueSizes: readonly number[];
  /** Configuration space, byte 0 at {@link virtio.CONFIG_REG}. */
  readonly config: {
    read(offset: number, size: number): bigint;
    write(offset: number, size: number, value: bigint): Completion;
  };
  /** Called when the driver has put chains into a queue. Only while the device is live. */
  notified(queue: number): Completion;
  /** Called when the driver has written 0 to the status. Queues are already disabled. */
  reset(): Completion;
}

export class MmioTransport {
  readonly queues: readonly DeviceQueue[];
  readonly #device: VirtioDevice;
  readonly #raiseInterrupt: () => void;
  readonly #registers: RegisterFile<MmioRegister>;
  readonly #driverFeatures = [0n, 0n];
  #negotiated = 0n;
  /** Completion of the reset in progress. */
  #resetting: Completion;
  /** Completion of the work that the register write in progress has caused. */
  #caused: Completion;

  /** @param raiseInterrupt called when a bit of the interrupt status is set */
  constructor(ram: GuestRam, device: VirtioDevice, raiseInterrupt: () => void = () => {}) {
    this.#device = device;
    this.#raiseInterrupt = raiseInterrupt;
    this.#registers = new RegisterFile(virtio.CONFIG_REG, mmioRegisterTable(device.deviceId));
    this.queues = device.queueSizes.map(() => new DeviceQueue(ram));
    this.#selectQueue(0);
    const on = (name: MmioRegister, action: (value: number) => void) =>
      this.#registers.onWrite(name, (value) => action(Number(value)));
    on('DEVICE_FEATURES_SEL', () => this.#showFeatures());
    on('DRIVER_FEATURES', (value) => this.#acceptFeatures(value));
    on('QUEUE_SEL', (value) => this.#selectQueue(value));
    on('QUEUE_READY', (value) => this.#setReady(value === 1));
    on('QUEUE_NOTIFY', (value) => this.#notify(value));
    on('QUEUE_RESET', (value) => this.#resetQueue(value));
    on('INTERRUPT_ACK', (value) => this.#acknowledge(value));
    on('STATUS', (value) => this.#setStatus(value));
    this.#showFeatures();
  }

  /** Offered features that the driver has accepted; 0 before FEATURES_OK. */
  get features(): bigint {
    return this.#negotiated;
  }

  get status(): number {
    return this.#registers.get32('STATUS');
  }

  /** True while the device may use its queues: from DRIVER_OK until NEEDS_RESET or a reset. */
  get live(): boolean {
    const wanted = virtio.STATUS_DRIVER_OK | virtio.STATUS_NEEDS_RESET;
    return (this.status & wanted) === virtio.STATUS_DRIVER_OK && !this.#resetting;
  }

  /** Performs a software read of 1, 2, 4 or 8 bytes. */
  read(offset: number, size: number): bigint {
    if (offset < virtio.CONFIG_REG) return this.#registers.read(offset, size);
    return this.#device.config.read(offset - virtio.CONFIG_REG, size);
  }

  /** Performs a software write. All its effects are complete when the returned work is. */
  write(offset: number, size: number, value: bigint): Completion {
    if (offset >= virtio.CONFIG_REG)
      return this.#device.config.write(offset - virtio.CONFIG_REG, size, value);
    const outer = this.#caused;
    this.#caused = undefined;
    this.#registers.write(offset, size, value);
    const caused = this.#caused;
    this.#caused = outer;
    return caused;
  }

  /** Sets a bit of the interrupt status: INTERRUPT_USED or INTERRUPT_CONFIG. */
  interrupt(bit: number): void {
    this.#registers.set('INTERRUPT_STATUS', BigInt(this.#registers.get32('INTERRUPT_STATUS') | bit));
    this.#raiseInterrupt();
  }

  /** Sets NEEDS_RESET: the device cannot continue until the driver resets it (2.1.2). */
  needsReset(): void {
    if ((this.status & virtio.STATUS_NEEDS_RESET) !== 0) return;
    const { live } = this;
    this.#registers.set('STATUS', BigInt(this.status | virtio.STATUS_NEEDS_RESET));
    if (live) this.interrupt(virtio.INTERRUPT_CONFIG);
  }

  /**
   * Returns registers, features and queues, for migration. The device has returned every chain that it took.
   * @throws Error during a reset
   */
  save(): Uint8Array {
    if (this.#resetting) throw new Error('virtio: a reset is under way');
    const [low, high] = this.#driverFeatures as [bigint, bigint];
    const values = { driverFeatures: [low, high], negotiated: this.#negotiated } as const;
    return saveTransport(this.#registers, values, this.queues);
  }

  /** Restores what {@link save} returned, in a new transport of the same device. @throws StateError */
  restore(state: Uint8Array): void {
    const { features, queueSizes } = this.#device;
    const values = restoreTransport(state, this.#registers, features, queueSizes, this.queues);
    this.#negotiated = values.negotiated;
    this.#driverFeatures.splice(0, 2, ...values.driverFeatures);
    const size = this.#registers.get('QUEUE_SIZE');
    this.#selectQueue(this.#selected());
    this.#registers.set('QUEUE_SIZE', size);
    this.#showFeatures();
  }

  #selected(): number {
    return this.#registers.get32('QUEUE_SEL');
  }

  #showFeatures(): void {
    const select = this.#registers.get32('DEVICE_FEATURES_SEL');
    const shown = select < 2 ? (this.#device.features >> BigInt(32 * select)) & WORD : 0n;
    this.#registers.set('DEVICE_FEATURES', shown);
  }

  #acceptFeatures(value: number): void {
    const select = this.#registers.get32('DRIVER_FEATURES_SEL');
    if (select < 2) this.#driverFeatures[select] = BigInt(value);
  }

  #selectQueue(queue: number): void {
    const most = this.#device.queueSizes[queue] ?? 0;
    this.#registers.set('QUEUE_SIZE_MAX', BigInt(most));
    this.#registers.set('QUEUE_SIZE', BigInt(most));
    this.#registers.set('QUEUE_READY', this.queues[queue]?.ready ? 1n : 0n);
  }

  #setReady(ready: boolean): void {
    const queue = this.queues[this.#selected()];
    const size = this.#registers.get32('QUEUE_SIZE');
    if (!queue || !ready || size > (this.#device.queueSizes[this.#selected()] as number)) {
      queue?.disable();
      this.#registers.set('QUEUE_READY', 0n);
      return;
    }
    const address = (low: MmioRegister, high: MmioRegister) =>
      this.#registers.get32(high) * 2 ** 32 + this.#registers.get32(low);
    const desc = address('QUEUE_DESC_LOW', 'QUEUE_DESC_HIGH');
    const avail = address('QUEUE_DRIVER_LOW', 'QUEUE_DRIVER_HIGH');
    const used = address('QUEUE_DEVICE_LOW', 'QUEUE_DEVICE_HIGH');
    queue.enable({ size, desc, avail, used }, (this.#negotiated & virtio.F_EVENT_IDX) !== 0n);
  }

  #resetQueue(value: number): void {
    this.#registers.set('QUEUE_RESET', 0n);
    if (value !== 1 || (this.#negotiated & virtio.F_RING_RESET) === 0n) return;
    this.queues[this.#selected()]?.disable();
    this.#registers.set('QUEUE_READY', 0n);
  }

  #notify(queue: number): void {
    if (this.live && this.queues[queue]?.ready) this.#caused = this.#device.notified(queue);
  }

  #acknowledge(bits: number): void {
    this.#registers.set('INTERRUPT_STATUS', BigInt(this.#registers.get32('INTERRUPT_STATUS') & ~bits));
  }

  #setStatus(status: number): void {
    if ((status & ~virtio.STATUS_NEEDS_RESET) === 0) this.#reset();
    else if ((status & virtio.STATUS_FEATURES_OK) !== 0 && this.#negotiated === 0n) {
      const [low, high] = this.#driverFeatures as [bigint, bigint];
      this.#negotiated = (low | (high << 32n)) & this.#device.features;
    }
  }

  #reset(): void {
    for (const queue of this.queues) queue.disable();
    this.#driverFeatures.fill(0n);
    this.#negotiated = 0n;
    this.#registers.reset();
    this.#selectQueue(0);
    this.#showFeatures();
    // Nothing reaches the device while it resets, so further resets join the one in progress.
    this.#resetting ??= this.#device.reset()?.finally(() => {
      this.#resetting = undefined;
      this.#registers.set('STATUS', 0n);
    });
    if (!this.#resetting) return;
    // 2.4.1: the status reads 0 only after the reset is complete.
    this.#registers.set('STATUS', BigInt(virtio.STATUS_ACKNOWLEDGE));
    this.#caused = this.#resetting;
  }
}
