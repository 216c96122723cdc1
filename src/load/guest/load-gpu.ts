/**
 * A vGPU under declared load: its domains and the buffers of its VUs.
 */

import type { GuestVm } from '../../guest/guest-vm.ts';
import type { GuestDomain } from '../../guest/iommu/guest-iommu.ts';
import { Mutex } from '../../guest/mutex.ts';
import type { GuestGpu } from '../../guest/vm-parts.ts';
import { allocatePages } from '../../guest/workload.ts';
import { type Gpa, type Iova, PAGE_SIZE, PERM_RW, toIova } from '../../memory/address.ts';
import { BUFFER_BYTES, BUFFER_PAGES } from '../buffers.ts';

/** GPU addresses of a VU: its buffers, and as much again for mappings of an iteration. */
const VU_PAGES = 4 * BUFFER_PAGES;

/** A VU's buffers on its vGPU. */
export interface VuBuffer {
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

export class LoadGpu {
  readonly gpu: GuestGpu;
  /** The domains that `domain-switch` uses in turn, with the same mappings; without translation empty. */
  readonly domains: GuestDomain[] = [];
  /** Held while the display is used: there is only one. */
  readonly display: Mutex = new Mutex();
  displayOn = false;
  /** Held while the large buffer is used: there is only one. */
  readonly bigBuffer: Mutex = new Mutex();
  readonly #free: VuBuffer[];

  private constructor(gpu: GuestGpu, buffers: VuBuffer[]) {
    this.gpu = gpu;
    this.#free = buffers;
  }

  /** Maps buffers for `count` VUs by the DMA API, which chooses their IOVAs. */
  static async create(vm: GuestVm, gpu: GuestGpu, count: number): Promise<LoadGpu> {
    const buffers = Array.from({ length: count }, (_, slot) => newBuffer(vm, slot, false));
    for (const buffer of buffers) {
      const { iovas } = await gpu.dma.map([...buffer.source, ...buffer.target]);
      buffer.iovas = iovas;
      await gpu.driver.map(buffer.va, iovas);
    }
    return new LoadGpu(gpu, buffers);
  }

  /** Maps the buffers at IOVA = GPA in two domains, so that the device works while its address space is switched. */
  static async createSwitching(vm: GuestVm, gpu: GuestGpu, count: number): Promise<LoadGpu> {
    const buffers = Array.from({ length: count }, (_, slot) => newBuffer(vm, slot, true));
    const load = new LoadGpu(gpu, buffers);
    const pages = buffers.flatMap(({ source, target }) => [...source, ...target]);
    load.domains.push(gpu.dma.domain as GuestDomain, (await vm.iommu()).createDomain());
    const ranges = pages.map((gpa) => ({ iova: toIova(gpa), gpa, size: PAGE_SIZE, perm: PERM_RW }));
    await load.domains[0]?.mapAll(ranges);
    await vm.mapIdentity(load.domains[1] as GuestDomain, gpu, pages);
    for (const { va, iovas } of buffers) await gpu.driver.map(va, iovas);
    return load;
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

function newBuffer(vm: GuestVm, slot: number, low: boolean): VuBuffer {
  const va = slot * VU_PAGES * PAGE_SIZE;
  const words = new Uint32Array(BUFFER_BYTES / 4);
  const [source, target] = [allocatePages(vm, BUFFER_PAGES, low), allocatePages(vm, BUFFER_PAGES, low)];
  return {
    va,
    scratchVa: va + 2 * BUFFER_BYTES,
    source,
    target,
    iovas: [...source, ...target].map(toIova),
    words,
    bytes: new Uint8Array(words.buffer),
  };
}
