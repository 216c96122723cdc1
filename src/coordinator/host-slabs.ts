/**
 * Host memory of a host's VMs: a slab for each. The slab of a VM that has been closed goes to the next one, so that a
 * device that still writes to its old frames would be seen in the memory of another VM.
 */
import type { Hpa } from '../memory/address.ts';
import { HostMemory } from '../memory/host-memory.ts';

export class HostSlabs {
  readonly #free: HostMemory[] = [];

  /** Returns a zeroed slab: a free one of this size, or a new one at `base`. @throws RangeError */
  take(base: Hpa, size: number): HostMemory {
    const at = this.#free.findIndex((slab) => slab.size === size);
    const [slab] = at < 0 ? [] : this.#free.splice(at, 1);
    if (!slab) return HostMemory.allocate(base, size);
    slab.fill32(slab.base as Hpa, size, 0);
    return slab;
  }

  /** Takes the slab of a VM whose threads have all ended. */
  give(slab: HostMemory): void {
    this.#free.push(slab);
  }
}
