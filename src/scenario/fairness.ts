/**
 * Fairness of the engines' use among the vGPUs of each group, while a run is in progress.
 */
import { jainIndex } from '../gpu/stats.ts';

/** Samples of one VM since the last reading. */
interface VmUse {
  readonly group: string;
  /** Sum of the samples of each vGPU: engine time for its share. */
  readonly sums: number[];
  count: number;
}

export class Fairness {
  readonly #vms = new Map<number, VmUse>();

  /** Adds a sample of a VM's vGPUs. */
  add(vm: number, group: string, use: readonly number[]): void {
    const known = this.#vms.get(vm);
    if (!known || known.sums.length !== use.length) {
      this.#vms.set(vm, { group, sums: [...use], count: 1 });
      return;
    }
    for (const [i, value] of use.entries()) known.sums[i] = (known.sums[i] as number) + value;
    known.count++;
  }

  /** A VM has ended. */
  delete(vm: number): void {
    this.#vms.delete(vm);
  }

  /**
   * Returns Jain's index of each group whose VMs all have a sample since its last reading, and whose engines were used.
   * The samples of the processes come at different times, so that a VM may have two in one second and none in the next.
   */
  take(): readonly (readonly [group: string, index: number])[] {
    const groups = Map.groupBy(this.#vms.values(), ({ group }) => group);
    return [...groups].flatMap(([group, vms]) => {
      if (!vms.every(({ count }) => count > 0)) return [];
      const values = vms.flatMap(({ sums, count }) => sums.map((sum) => sum / count));
      for (const vm of vms) {
        vm.sums.fill(0);
        vm.count = 0;
      }
      return values.some((value) => value > 0) ? [[group, jainIndex(values)] as const] : [];
    });
  }
}
