/**
 * A virtio device as a PCI function: its configuration space, its BARs, and the loop over its queues. What the device does
 * with a chain is the behaviour's.
 */

import type { Scanout } from '../../abi/scanout.ts';
import * as virtio from '../../abi/virtio.ts';
import type { DeviceContext, DeviceModel, StepResult } from '../../device/model.ts';
import type { Iova } from '../../memory/address.ts';
import { ConfigSpace } from '../../pci/config-space.ts';
import { Msix } from '../../pci/msix.ts';
import { msixRegisters } from '../../pci/msix-format.ts';
import { RegisterFile, type RegisterSpec } from '../../registers/register-file.ts';
import type { Chain } from '../../virtio/chain.ts';
import { BROKEN } from '../../virtio/device-queue.ts';
import {
  MSIX_BAR_BYTES,
  VIRTIO_BAR_BYTES,
  virtioCapabilities,
  virtioVectors,
} from '../../virtio/pci-registers.ts';
import { PCI_TRANSPORT_FEATURES, PciTransport } from '../../virtio/pci-transport.ts';
import { DmaMemory, DmaRefusedError, DmaStalledError } from './dma-memory.ts';

/** Identity of a kind of virtio device. */
export interface VirtioKind {
  /** Number of the device (virtio 1.3 section 5). */
  readonly deviceId: number;
  readonly classCode: number;
  /** Features of the device itself. */
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly configRegisters: readonly RegisterSpec[];
}

/** Result of a chain. */
export interface Performed {
  /** Bytes written to the chain. */
  readonly written: number;
  /** Changes the device, after the last access to guest memory. */
  readonly commit?: () => void;
}

/** A virtio device behind its queues. */
export interface VirtioBehaviour {
  /** Performs a chain. It is repeated after a stall, so only `commit` may change the device. */
  perform(queue: number, chain: Chain): Performed;
  /** Returns to the initial state. It must drop every pin. */
  reset(): void;
  /** Must drop every pin in [iova, iova + size). */
  dmaUnmap?(iova: Iova, size: number): void;
  scanout?(): Scanout | undefined;
}

export class VirtioFunction implements DeviceModel {
  readonly config: ConfigSpace;
  readonly bars: DeviceModel['bars'];
  readonly transport: PciTransport;
  readonly #context: DeviceContext;
  readonly #behaviour: VirtioBehaviour;
  /** Queues of which the driver has sent notifications. */
  readonly #notified = new Set<number>();

  constructor(
    context: DeviceContext,
    kind: VirtioKind,
    behaviourOf: (transport: () => PciTransport) => VirtioBehaviour,
  ) {
    this.#context = context;
    const vectors = virtioVectors(kind.queueSizes.length);
    this.config = new ConfigSpace({
      vendorId: virtio.PCI_VENDOR_ID,
      deviceId: virtio.PCI_DEVICE_ID + kind.deviceId,
      subsystemVendorId: virtio.PCI_VENDOR_ID,
      subsystemId: virtio.PCI_DEVICE_ID + kind.deviceId,
      revision: 1,
      classCode: kind.classCode,
      bar0Bytes: VIRTIO_BAR_BYTES,
      barBytes: { 1: MSIX_BAR_BYTES },
      msiVectors: 0,
      msix: vectors,
      capabilities: virtioCapabilities(),
    });
    const table = new RegisterFile<string>(MSIX_BAR_BYTES, msixRegisters(vectors));
    const raise = (vector: number) => context.interrupt(vector);
    new Msix(this.config, table, vectors.vectors, raise);
    const device = {
      features: kind.features | PCI_TRANSPORT_FEATURES,
      queueSizes: kind.queueSizes,
      configRegisters: kind.configRegisters,
      notified: (queue: number) => void this.#notified.add(queue),
      reset: () => this.#reset(),
    };
    this.transport = new PciTransport(new DmaMemory(context.dma), device, this.config, raise);
    this.bars = { 0: this.transport.registers, 1: table };
    this.#behaviour = behaviourOf(() => this.transport);
  }

  /** Performs one chain. */
  step(): StepResult {
    for (const queue of this.#notified) {
      if (!this.transport.live || !this.config.busMaster) return 'idle';
      const result = this.#perform(queue);
      if (result !== 'idle') return result;
      this.#notified.delete(queue);
    }
    return 'idle';
  }

  dmaUnmap(iova: Iova, size: number): void {
    this.#behaviour.dmaUnmap?.(iova, size);
  }

  close(): void {
    this.#behaviour.reset();
  }

  scanout(): Scanout | undefined {
    return this.#behaviour.scanout?.();
  }

  #reset(): void {
    this.#notified.clear();
    this.#behaviour.reset();
  }

  /** Performs the next chain of a queue. Returns 'idle' if the queue is empty. */
  #perform(index: number): StepResult {
    const queue = this.transport.queues[index];
    const before = queue?.state;
    if (!queue || !before) return 'idle';
    try {
      const chain = queue.pop();
      if (chain === undefined) return 'idle';
      if (chain === BROKEN) return this.#fail(`queue ${index} is invalid`);
      const { written, commit } = this.#behaviour.perform(index, chain);
      const isWanted = queue.push(chain.head, written);
      commit?.();
      if (isWanted) this.transport.interruptQueue(index);
      return 'more';
    } catch (error) {
      if (error instanceof DmaStalledError) {
        queue.restore(before);
        return 'stalled';
      }
      if (error instanceof DmaRefusedError) return this.#fail(`queue ${index}: a DMA was refused`);
      throw error;
    }
  }

  /** Stops the device until its driver resets it, as QEMU does. */
  #fail(reason: string): StepResult {
    this.#context.log(`${reason}; the driver must reset the device`);
    this.#context.metrics.add('virtio errors');
    this.#notified.clear();
    this.transport.needsReset();
    return 'idle';
  }
}
