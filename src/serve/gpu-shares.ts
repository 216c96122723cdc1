/**
 * Shares of physical GPUs for the served vGPUs of one command: the scheduler of a run, with event counters as doorbells,
 * because a served device sleeps in a call of the system.
 */
import { typeOfMdev } from '../coordinator/default-host.ts';
import { GpuPool, type Placement } from '../coordinator/gpu-pool.ts';
import type { GpuSlotHandle } from '../gpu/engine-slot.ts';
import { DEFAULT_SCHEDULING, type Policy } from '../gpu/policy.ts';
import type { VgpuStats } from '../gpu/stats.ts';
import { DEFAULT_VGPU_TYPE, VGPU_TYPES, type VgpuType } from '../gpu/types.ts';

/** Bytes of a link that nobody sleeps on. */
const IDLE_LINK_BYTES = 4096;

/** A vGPU's slot, and the event counters of the vGPUs on its GPU by slot. */
export interface GpuShare {
  readonly slot: GpuSlotHandle;
  readonly wakeFds: readonly number[];
}

/** Returns the vGPU type that a device type names; undefined for a type that is no vGPU. */
export function gpuTypeOf(type: string): VgpuType | undefined {
  const id = type === 'vgpu' ? DEFAULT_VGPU_TYPE : type;
  return VGPU_TYPES.find((candidate) => candidate.id === id) ?? typeOfMdev(id);
}

export class GpuShares {
  readonly #pool: GpuPool;
  readonly #placements: readonly Placement[];
  readonly #wakeFds: readonly number[];

  /** Places a vGPU of the type for each event counter. @throws RangeError for an unknown policy */
  constructor(
    { id }: VgpuType,
    names: readonly string[],
    wakeFds: readonly number[],
    policy: Policy = DEFAULT_SCHEDULING.policy,
  ) {
    this.#pool = new GpuPool({ ...DEFAULT_SCHEDULING, policy, types: [id] });
    this.#wakeFds = wakeFds;
    this.#placements = names.map((name, index) =>
      this.#pool.place(name, index, new SharedArrayBuffer(IDLE_LINK_BYTES)),
    );
  }

  /** Returns the share of the device with this index. */
  share(index: number): GpuShare {
    const placement = this.#placements[index] as Placement;
    return { slot: this.#pool.handle(placement), wakeFds: this.#wakeFdsOf(placement) };
  }

  stats(index: number): VgpuStats {
    return this.#pool.statsOf(this.#placements[index] as Placement);
  }

  /** Frees the slot of a device whose thread has ended. Returns the event counters of the others, which may now run. */
  release(index: number): readonly number[] {
    const placement = this.#placements[index] as Placement;
    placement.gpu.release(placement.slot);
    return this.#wakeFdsOf(placement);
  }

  /** Returns the event counters of the vGPUs on a GPU, by slot. */
  #wakeFdsOf({ gpu }: Placement): readonly number[] {
    const fds: number[] = [];
    for (const [index, other] of this.#placements.entries())
      if (other.gpu === gpu) fds[other.slot] = this.#wakeFds[index] as number;
    return fds;
  }
}
