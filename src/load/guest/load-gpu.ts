/**
 * A vGPU under declared load: its domains and the buffers of its VUs.
 */

import type { GpuContext } from '../../guest/gpu/context.ts';
import type { GuestVm } from '../../guest/guest-vm.ts';
import type { GuestDomain } from '../../guest/iommu/guest-iommu.ts';
import { Mutex } from '../../guest/mutex.ts';
import type { GuestGpu } from '../../guest/vm-parts.ts';
import { allocatePages } from '../../guest/workload.ts';
import { type Gpa, type Iova, PAGE_SIZE, PERM_RW, toIova } from '../../memory/address.ts';
import { BUFFER_BYTES, BUFFER_PAGES } from '../buffers.ts';
import type { SavedLoadGpu } from './saved-load.ts';

/** GPU addresses of a VU: its buffers, and as much again for mappings of an iteration. */
const VU_PAGES = 4 * BUFFER_PAGES;

/** A VU's buffers on its vGPU. */
export interface VuBuffer {
  /** Number of the buffers on their vGPU, from 0. */
  readonly slot: number;
  /** GPU address of the source; the target is behind it. */
  readonly va: number;
  /** GPU address for mappings of an iteration. */
  readonly scratchVa: number;
  readonly source: readonly Gpa[];
  readonly target: readonly Gpa[];
  /** IOVAs of the source, then of the target. */
  iovas: readonly Iova[];
  /** Bytes that the guest expects or writes. */
  readonly words: Uint32Array;
  readonly bytes: Uint8Array;
}

/** The large buffer of a vGPU. */
export interface BigBuffer {
  readonly context: GpuContext;
  /** GPA of the block; its IOVA is equal. */
  readonly block: Gpa;
}

export class LoadGpu {
  readonly gpu: GuestGpu;
  /** The domains that `domain-switch` uses in turn, with the same mappings; without translation empty. */
  readonly domains: GuestDomain[] = [];
  /** Held while the display is used: there is only one. */
  readonly display: Mutex = new Mutex();
  displayOn = false;
  /** Held while the large buffer is used: there is only one. */
  readonly bigBuffer: Mutex = new Mutex();
  big: BigBuffer | undefined;
  readonly #all: readonly VuBuffer[];
  readonly #free: VuBuffer[];

  private constructor(gpu: GuestGpu, buffers: readonly VuBuffer[]) {
    this.gpu = gpu;
    this.#all = buffers;
    this.#free = [...buffers];
  }

  /** Maps buffers for `count` VUs by the DMA API, which chooses their IOVAs. */
  static async create(vm: GuestVm, gpu: GuestGpu, count: number): Promise<LoadGpu> {
    const buffers = Array.from({ length: count }, (_, slot) => allocateBuffer(vm, slot, false));
    for (const buffer of buffers) {
      const { iovas } = await gpu.dma.map([...buffer.source, ...buffer.target]);
      buffer.iovas = iovas;
      await gpu.driver.map(buffer.va, iovas);
    }
    return new LoadGpu(gpu, buffers);
  }

  /** Maps the buffers at IOVA = GPA in two domains, so that the device works while its address space is switched. */
  static async createSwitching(vm: GuestVm, gpu: GuestGpu, count: number): Promise<LoadGpu> {
    const buffers = Array.from({ length: count }, (_, slot) => allocateBuffer(vm, slot, true));
    const load = new LoadGpu(gpu, buffers);
    const pages = buffers.flatMap(({ source, target }) => [...source, ...target]);
    load.domains.push(gpu.dma.domain as GuestDomain, (await vm.iommu()).createDomain());
    const ranges = pages.map((gpa) => ({ iova: toIova(gpa), gpa, size: PAGE_SIZE, perm: PERM_RW }));
    await load.domains[0]?.mapAll(ranges);
    await vm.mapIdentity(load.domains[1] as GuestDomain, gpu, pages);
    for (const { va, iovas } of buffers) await gpu.driver.map(va, iovas);
    return load;
  }

  /** Restores what {@link save} has returned on the last host; RAM and device are restored already. */
  static restore(vm: GuestVm, { index, buffers, domains, displayOn, big }: SavedLoadGpu): LoadGpu {
    const gpu = vm.gpus[index] as GuestGpu;
    const load = new LoadGpu(
      gpu,
      buffers.map(({ source, target, iovas }, slot) => ({
        ...newBuffer(slot, source as Gpa[], target as Gpa[]),
        iovas: iovas as Iova[],
      })),
    );
    load.domains.push(...domains.map((id) => vm.domain(id) as GuestDomain));
    load.displayOn = displayOn;
    if (big)
      load.big = {
        context: gpu.driver.contexts[big.context - 1] as GpuContext,
        block: big.block as Gpa,
      };
    return load;
  }

  /** Returns the state between two iterations, as plain JSON for {@link restore}. */
  save(): SavedLoadGpu {
    const { domains, displayOn, big } = this;
    return {
      index: this.gpu.index,
      buffers: this.#all.map(({ source, target, iovas }) => ({ source, target, iovas })),
      domains: domains.map(({ id }) => id),
      displayOn,
      big: big ? { context: big.context.id, block: big.block } : null,
    };
  }

  /** Takes the buffers of these slots, of VUs that have used them on the last host. */
  takeSlots(slots: readonly number[]): VuBuffer[] {
    return slots.map((slot) => {
      const at = this.#free.findIndex((buffer) => buffer.slot === slot);
      if (at < 0) throw new RangeError(`${this.gpu.name} has no free buffers ${slot}`);
      return this.#free.splice(at, 1)[0] as VuBuffer;
    });
  }

  /** Takes the buffers of `count` VUs. @throws RangeError if there are fewer */
  take(count: number): VuBuffer[] {
    if (this.#free.length < count)
      throw new RangeError(`${this.gpu.name} has buffers for ${this.#free.length} more VUs, not ${count}`);
    return this.#free.splice(0, count);
  }

  giveBack(buffer: VuBuffer): void {
    this.#free.push(buffer);
  }
}

const allocateBuffer = (vm: GuestVm, slot: number, low: boolean): VuBuffer =>
  newBuffer(slot, allocatePages(vm, BUFFER_PAGES, low), allocatePages(vm, BUFFER_PAGES, low));

function newBuffer(slot: number, source: readonly Gpa[], target: readonly Gpa[]): VuBuffer {
  const va = slot * VU_PAGES * PAGE_SIZE;
  const words = new Uint32Array(BUFFER_BYTES / 4);
  return {
    slot,
    va,
    scratchVa: va + 2 * BUFFER_BYTES,
    source,
    target,
    iovas: [...source, ...target].map(toIova),
    words,
    bytes: new Uint8Array(words.buffer),
  };
}
