/**
 * The physical GPUs of one host process: as many as its vGPUs need, filled one after the other.
 */

import type { GpuSlotHandle } from '../gpu/engine-slot.ts';
import { PhysicalGpu } from '../gpu/physical-gpu.ts';
import { checkScheduling, DEFAULT_SCHEDULING, type Scheduling } from '../gpu/policy.ts';
import type { VgpuStats } from '../gpu/stats.ts';
import { DEFAULT_VGPU_TYPE, type VgpuType, vgpuType } from '../gpu/types.ts';
import { typeOfMdev } from './default-host.ts';

/** Where a vGPU is. */
export interface Placement {
  readonly gpu: PhysicalGpu;
  readonly slot: number;
}

/** How the physical GPUs are divided. */
export interface GpuRunSettings extends Scheduling {
  /** Types of a VM's vGPUs, by index; they begin anew when they end. */
  readonly types: readonly string[];
}

export const DEFAULT_GPU_SETTINGS: GpuRunSettings = { ...DEFAULT_SCHEDULING, types: [DEFAULT_VGPU_TYPE] };

export class GpuPool {
  readonly #gpus: PhysicalGpu[] = [];
  readonly #types: readonly VgpuType[];
  /** GPUs whose vGPUs have started: those know each other's links, and could not know a newcomer's. */
  readonly #sealed = new Set<PhysicalGpu>();
  #scheduling: Scheduling;

  /** @throws RangeError for a policy, slice or type that there is not */
  constructor({ policy, sliceUs, types }: GpuRunSettings = DEFAULT_GPU_SETTINGS) {
    this.#scheduling = { policy, sliceUs };
    checkScheduling(this.#scheduling);
    this.#types = types.map(vgpuType);
  }

  /**
   * Gives the vGPU with this index in its VM a slot on the first GPU that has room and has not started. An instance of a
   * host's GPU has the type that its mdev type says.
   */
  place(name: string, index: number, link: SharedArrayBuffer, mdevType = ''): Placement {
    const type =
      typeOfMdev(mdevType) ?? this.#types[index % this.#types.length] ?? vgpuType(DEFAULT_VGPU_TYPE);
    let gpu = this.#gpus.find((candidate) => !this.#sealed.has(candidate) && candidate.available(type) > 0);
    if (!gpu) {
      gpu = new PhysicalGpu(this.#scheduling);
      this.#gpus.push(gpu);
    }
    return { gpu, slot: gpu.place(name, type, link) };
  }

  /** What a vGPU's worker is given. From then on nobody else gets a slot on its GPU. */
  handle({ gpu, slot }: Placement): GpuSlotHandle {
    this.#sealed.add(gpu);
    return gpu.handle(slot);
  }

  /** Divides every GPU's engine in another way. @throws RangeError */
  schedule(scheduling: Scheduling): void {
    checkScheduling(scheduling);
    this.#scheduling = scheduling;
    for (const gpu of this.#gpus) gpu.schedule(scheduling);
  }

  /** What every vGPU has had of its engine so far. */
  stats(): VgpuStats[] {
    return this.#gpus.flatMap((gpu, number) => gpu.stats(number));
  }
}
