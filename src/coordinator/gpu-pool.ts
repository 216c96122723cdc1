/**
 * The physical GPUs of one host process. A GPU is added when the vGPUs fill the ones before it.
 */

import type { GpuSlotHandle } from '../gpu/engine-slot.ts';
import { PhysicalGpu } from '../gpu/physical-gpu.ts';
import { checkScheduling, DEFAULT_SCHEDULING, type Scheduling } from '../gpu/policy.ts';
import type { VgpuStats } from '../gpu/stats.ts';
import { DEFAULT_VGPU_TYPE, type VgpuType, vgpuType } from '../gpu/types.ts';
import { typeOfMdev } from './default-host.ts';

/** A vGPU's GPU and its slot there. */
export interface Placement {
  readonly gpu: PhysicalGpu;
  readonly slot: number;
}

/** Division of the physical GPUs. */
export interface GpuRunSettings extends Scheduling {
  /** Types of a VM's vGPUs, by index; after the last type, the first one follows again. */
  readonly types: readonly string[];
}

const DEFAULT_GPU_SETTINGS: GpuRunSettings = { ...DEFAULT_SCHEDULING, types: [DEFAULT_VGPU_TYPE] };

export class GpuPool {
  /** By number; undefined for a GPU that all its vGPUs have left, whose number the next one takes. */
  readonly #gpus: (PhysicalGpu | undefined)[] = [];
  readonly #types: readonly VgpuType[];
  /** GPUs whose vGPUs have started. Those know each other's links and cannot learn another one. */
  readonly #sealed = new Set<PhysicalGpu>();
  #scheduling: Scheduling;

  /** @throws RangeError for an unknown policy or type, or a time slice out of range */
  constructor({ policy, sliceUs, types }: GpuRunSettings = DEFAULT_GPU_SETTINGS) {
    this.#scheduling = { policy, sliceUs };
    checkScheduling(this.#scheduling);
    this.#types = types.map(vgpuType);
  }

  /**
   * Places the VM's vGPU with this index in a slot on the first GPU that has room and has not started. The mdev type
   * determines the vGPU's type if it is one of the host's GPUs' types.
   * @param own types of the VM's vGPUs in turn; if empty, those of the run
   */
  place(
    name: string,
    index: number,
    link: SharedArrayBuffer,
    mdevType = '',
    own: readonly string[] = [],
  ): Placement {
    const types = own.length > 0 ? own.map(vgpuType) : this.#types;
    const type = typeOfMdev(mdevType) ?? types[index % types.length] ?? vgpuType(DEFAULT_VGPU_TYPE);
    let gpu = this.#present.find(
      (candidate) => !this.#sealed.has(candidate) && candidate.available(type) > 0,
    );
    if (!gpu) {
      gpu = new PhysicalGpu(this.#scheduling);
      this.#add(gpu);
    }
    return { gpu, slot: gpu.place(name, type, link) };
  }

  /** Returns the handle for a vGPU's worker. From then on its GPU takes no other vGPU. */
  handle({ gpu, slot }: Placement): GpuSlotHandle {
    this.#sealed.add(gpu);
    return gpu.handle(slot);
  }

  /** Sets the scheduling of every GPU. @throws RangeError */
  schedule(scheduling: Scheduling): void {
    checkScheduling(scheduling);
    this.#scheduling = scheduling;
    for (const gpu of this.#present) gpu.schedule(scheduling);
  }

  /** Returns one vGPU's use of its engine so far, also after it has left its GPU. */
  statsOf({ gpu, slot }: Placement): VgpuStats {
    return gpu.statsOf(slot, this.#gpus.indexOf(gpu));
  }

  /** Returns every vGPU's use of its engines so far. */
  stats(): VgpuStats[] {
    return this.#gpus.flatMap((gpu, number) => gpu?.stats(number) ?? []);
  }

  /** Drops the GPUs of a VM that has left, if no other VM is on them. A run with many migrations must not collect them. */
  forget(placements: readonly (Placement | undefined)[]): void {
    for (const placement of placements) {
      if (!placement?.gpu.isDeserted) continue;
      const number = this.#gpus.indexOf(placement.gpu);
      if (number >= 0) this.#gpus[number] = undefined;
      this.#sealed.delete(placement.gpu);
    }
  }

  /**
   * Adds a GPU with the first free number. Each GPU here has a vGPU that has not left, so their count is bounded by that of
   * the vGPUs, whatever the count of VMs that boot again.
   */
  #add(gpu: PhysicalGpu): void {
    const free = this.#gpus.indexOf(undefined);
    this.#gpus[free < 0 ? this.#gpus.length : free] = gpu;
  }

  get #present(): PhysicalGpu[] {
    return this.#gpus.filter((gpu) => gpu !== undefined);
  }
}
