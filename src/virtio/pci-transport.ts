/**
 * Virtio PCI transport without legacy interface (virtio 1.3 section 4.1): feature negotiation, status, queue set-up,
 * notifications, interrupts by MSI-X or by the interrupt status.
 */
import * as virtio from '../abi/virtio.ts';
import type { ConfigSpace } from '../pci/config-space.ts';
import { RegisterFile, type RegisterSpec } from '../registers/register-file.ts';
import { DeviceQueue } from './device-queue.ts';
import {
  type CommonRegister,
  ISR_REGISTER,
  notifyRegister,
  VIRTIO_BAR,
  VIRTIO_BAR_BYTES,
  virtioRegisters,
  WINDOW,
} from './pci-registers.ts';
import type { QueueMemory } from './queue-memory.ts';

const WORD = 0xffff_ffffn;
/** PCI status: the function asserts its interrupt pin. */
const PCI_STATUS_INTERRUPT = 8n;
/** A function on the bus uses bus addresses, and no driver may ignore that. */
const REQUIRED_FEATURES: bigint = virtio.F_VERSION_1 | virtio.F_ACCESS_PLATFORM;
/** Features of the transport and of its queues. */
export const PCI_TRANSPORT_FEATURES: bigint =
  REQUIRED_FEATURES | virtio.F_INDIRECT_DESC | virtio.F_RING_RESET;

/** The device behind the transport. */
export interface VirtioPciDevice {
  /** Offered features, with PCI_TRANSPORT_FEATURES. */
  readonly features: bigint;
  /** Maximum entries of each queue. */
  readonly queueSizes: readonly number[];
  /** Registers of the device configuration, from offset 0. */
  readonly configRegisters: readonly RegisterSpec[];
  /** Called when the driver has put chains into a queue. Only while the device is live. */
  notified(queue: number): void;
  /** Called when the driver has reset the device. Queues are already disabled. */
  reset(): void;
}

/** Registers of one queue, as the driver has written them. */
interface QueueSetup {
  size: number;
  vector: number;
  desc: bigint;
  driver: bigint;
  device: bigint;
}

/** The registers of the selected queue that the driver writes, and their fields. */
const QUEUE_FIELDS = [
  ['QueueSize', 'size'],
  ['QueueVector', 'vector'],
  ['QueueDesc', 'desc'],
  ['QueueDriver', 'driver'],
  ['QueueDevice', 'device'],
] as const;

export class PciTransport {
  /** The BAR with the transport's structures. */
  readonly registers: RegisterFile<string>;
  readonly queues: readonly DeviceQueue[];
  readonly #device: VirtioPciDevice;
  readonly #config: ConfigSpace;
  readonly #raise: (vector: number) => void;
  readonly #setups: QueueSetup[];
  #driverFeatures = 0n;
  #negotiated = 0n;
  #isr = 0;

  /** @param raise raises a vector; while MSI-X is disabled any vector stands for the interrupt pin */
  constructor(
    memory: QueueMemory,
    device: VirtioPciDevice,
    config: ConfigSpace,
    raise: (vector: number) => void,
  ) {
    this.#device = device;
    this.#config = config;
    this.#raise = raise;
    this.registers = new RegisterFile(
      VIRTIO_BAR_BYTES,
      virtioRegisters(device.queueSizes.length, device.configRegisters),
    );
    this.queues = device.queueSizes.map(() => new DeviceQueue(memory));
    this.#setups = device.queueSizes.map(initialSetup);
    this.#reactToCommon();
    for (const queue of this.queues.keys())
      this.registers.onWrite(notifyRegister(queue), () => this.#notify(queue));
    this.registers.onRead(ISR_REGISTER, () => this.#takeIsr());
    this.#reactToWindow();
    this.#show();
  }

  /** Offered features that the driver has accepted; 0 before FEATURES_OK. */
  get features(): bigint {
    return this.#negotiated;
  }

  get status(): number {
    return this.#get('DeviceStatus');
  }

  /** True while the device may use its queues: from DRIVER_OK until NEEDS_RESET or a reset. */
  get live(): boolean {
    const wanted = virtio.STATUS_DRIVER_OK | virtio.STATUS_NEEDS_RESET;
    return (this.status & wanted) === virtio.STATUS_DRIVER_OK;
  }

  /** Tells the driver that a queue has new used entries. */
  interruptQueue(queue: number): void {
    this.#interrupt((this.#setups[queue] as QueueSetup).vector, virtio.INTERRUPT_USED);
  }

  /** Tells the driver that the device configuration has changed. */
  configChanged(): void {
    this.#set('ConfigGeneration', BigInt((this.#get('ConfigGeneration') + 1) & 0xff));
    this.#interrupt(this.#get('ConfigVector'), virtio.INTERRUPT_CONFIG);
  }

  /** Sets NEEDS_RESET: the device cannot continue until the driver resets it (2.1.2). */
  needsReset(): void {
    if ((this.status & virtio.STATUS_NEEDS_RESET) !== 0) return;
    const { live } = this;
    this.#set('DeviceStatus', BigInt(this.status | virtio.STATUS_NEEDS_RESET));
    if (live) this.#interrupt(this.#get('ConfigVector'), virtio.INTERRUPT_CONFIG);
  }

  #get(name: CommonRegister): number {
    return this.registers.get32(name);
  }

  #set(name: CommonRegister, value: bigint): void {
    this.registers.set(name, value);
  }

  #reactToCommon(): void {
    const on = (name: CommonRegister, action: (value: number) => void) =>
      this.registers.onWrite(name, (value) => action(Number(value)));
    on('DeviceFeatureSelect', () => this.#show());
    on('DriverFeatureSelect', () => this.#show());
    on('DriverFeature', (value) => this.#acceptFeatures(value));
    on('DeviceStatus', (value) => this.#setStatus(value));
    on('QueueSelect', () => this.#show());
    on('QueueEnable', (value) => this.#enable(value));
    on('QueueReset', (value) => this.#resetQueue(value));
    on('ConfigVector', (value) => this.#set('ConfigVector', BigInt(this.#vectorOf(value))));
    for (const [name] of QUEUE_FIELDS) on(name, () => this.#setUp());
  }

  /** Fills the registers that depend on a selection. */
  #show(): void {
    const part = (features: bigint, select: number) =>
      select < 2 ? (features >> BigInt(32 * select)) & WORD : 0n;
    this.#set('DeviceFeature', part(this.#device.features, this.#get('DeviceFeatureSelect')));
    this.#set('DriverFeature', part(this.#driverFeatures, this.#get('DriverFeatureSelect')));
    this.#set('QueueCount', BigInt(this.queues.length));
    const select = this.#get('QueueSelect');
    const setup = this.#setups[select] ?? ABSENT_QUEUE;
    for (const [name, field] of QUEUE_FIELDS) this.#set(name, BigInt(setup[field]));
    this.#set('QueueEnable', this.queues[select]?.ready ? 1n : 0n);
    this.#set('QueueNotifyOffset', BigInt(select < this.queues.length ? select : 0));
    this.#set('QueueReset', 0n);
  }

  #acceptFeatures(value: number): void {
    const select = this.#get('DriverFeatureSelect');
    if (select > 1) return;
    const shift = BigInt(32 * select);
    this.#driverFeatures = (this.#driverFeatures & ~(WORD << shift)) | (BigInt(value) << shift);
  }

  /** Stores the registers of the selected queue. A value that is not allowed has no effect. */
  #setUp(): void {
    const select = this.#get('QueueSelect');
    const setup = this.#setups[select];
    if (setup && !(this.queues[select] as DeviceQueue).ready) {
      const size = this.#get('QueueSize');
      const most = this.#device.queueSizes[select] as number;
      if (size > 0 && size <= most && (size & (size - 1)) === 0) setup.size = size;
      for (const [name, field] of [
        ['QueueDesc', 'desc'],
        ['QueueDriver', 'driver'],
        ['QueueDevice', 'device'],
      ] as const)
        setup[field] = this.registers.get(name);
    }
    if (setup) setup.vector = this.#vectorOf(this.#get('QueueVector'));
    this.#show();
  }

  /** Returns a vector that the function has, or NO_VECTOR, which tells the driver that it is refused. */
  #vectorOf(value: number): number {
    return value < this.#config.vectors ? value : virtio.NO_VECTOR;
  }

  #enable(value: number): void {
    const select = this.#get('QueueSelect');
    const setup = this.#setups[select];
    if (value === 1 && setup) {
      const { size, desc, driver, device } = setup;
      const [avail, used] = [Number(driver), Number(device)];
      this.queues[select]?.enable({ size, desc: Number(desc), avail, used }, false);
    }
    this.#show();
  }

  #resetQueue(value: number): void {
    const select = this.#get('QueueSelect');
    const setup = this.#setups[select];
    if (value === 1 && setup && (this.#negotiated & virtio.F_RING_RESET) !== 0n) {
      this.queues[select]?.disable();
      this.#setups[select] = initialSetup(this.#device.queueSizes[select] as number);
    }
    this.#show();
  }

  #notify(queue: number): void {
    if (this.live && this.queues[queue]?.ready) this.#device.notified(queue);
  }

  #setStatus(status: number): void {
    if ((status & ~virtio.STATUS_NEEDS_RESET) === 0) this.#reset();
    else if ((status & virtio.STATUS_FEATURES_OK) !== 0 && this.#negotiated === 0n) this.#negotiate(status);
  }

  /** Accepts the driver's features, or leaves FEATURES_OK at 0 (2.2.2, 6.2). */
  #negotiate(status: number): void {
    const isSubset = (this.#driverFeatures & ~this.#device.features) === 0n;
    const hasRequired = (this.#driverFeatures & REQUIRED_FEATURES) === REQUIRED_FEATURES;
    if (isSubset && hasRequired) this.#negotiated = this.#driverFeatures;
    else this.#set('DeviceStatus', BigInt(status & ~virtio.STATUS_FEATURES_OK));
  }

  #reset(): void {
    for (const queue of this.queues) queue.disable();
    for (const [queue, size] of this.#device.queueSizes.entries()) this.#setups[queue] = initialSetup(size);
    this.#driverFeatures = 0n;
    this.#negotiated = 0n;
    this.registers.reset();
    this.#takeIsr();
    this.#show();
    this.#device.reset();
  }

  #interrupt(vector: number, cause: number): void {
    if (this.#config.msixEnabled) {
      if (vector !== virtio.NO_VECTOR) this.#raise(vector);
      return;
    }
    this.#isr |= cause;
    this.#config.registers.set('Status', this.#config.registers.get('Status') | PCI_STATUS_INTERRUPT);
    this.#raise(0);
  }

  /** Returns the interrupt status and clears it, as a read does. */
  #takeIsr(): bigint {
    const isr = BigInt(this.#isr);
    this.#isr = 0;
    this.#config.registers.set('Status', this.#config.registers.get('Status') & ~PCI_STATUS_INTERRUPT);
    return isr;
  }

  /** Lets software without access to the BAR reach it through configuration space (4.1.4.9). */
  #reactToWindow(): void {
    const registers = this.#config.registers as RegisterFile<string>;
    const target = () => {
      const [offset, length] = [registers.get32(WINDOW.offset), registers.get32(WINDOW.length)];
      const isAllowed = registers.get32(WINDOW.bar) === VIRTIO_BAR && [1, 2, 4].includes(length);
      return isAllowed && offset % length === 0 ? { offset, length } : undefined;
    };
    registers.onRead(WINDOW.data, () => {
      const at = target();
      return at ? this.registers.read(at.offset, at.length) : WORD;
    });
    registers.onWrite(WINDOW.data, (value) => {
      const at = target();
      if (at) this.registers.write(at.offset, at.length, BigInt.asUintN(8 * at.length, value));
    });
  }
}

const initialSetup = (size: number): QueueSetup => ({
  size,
  vector: virtio.NO_VECTOR,
  desc: 0n,
  driver: 0n,
  device: 0n,
});

/** A queue that the device does not have: its size is 0. */
const ABSENT_QUEUE: QueueSetup = initialSetup(0);
