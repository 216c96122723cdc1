/**
 * What this machine can carry, checked before anything starts: V8 aborts the whole process when it runs out of
 * memory maps, so that must never be tried.
 */
import { readFileSync } from 'node:fs';
import { availableMemory } from 'node:process';

/** Memory maps a worker takes at most (measured: 30 to 50). */
export const MAPS_PER_WORKER = 50;
/** Maps of a process without workers. */
export const MAPS_PER_PROCESS = 1000;
/** Memory of a device worker and of a guest worker, generously. */
const BYTES_PER_WORKER = 12 * 1024 * 1024;
/** Part of the available memory that a run may plan for. */
const MEMORY_SHARE = 0.9;
/** The kernel's default, where /proc does not tell. */
const DEFAULT_MAX_MAP_COUNT = 65530;

/** Thrown when a run is too large, with the numbers and what would fit. */
export class CapacityError extends Error {
  override name = 'CapacityError';
}

export interface RunSize {
  readonly vms: number;
  readonly vgpus: number;
  readonly processes: number;
  readonly ramBytes: number;
}

export interface HostCapacity {
  readonly maxMapCount: number;
  readonly memoryBytes: number;
}

/** This machine, as it is now. */
export function thisMachine(): HostCapacity {
  let maxMapCount = DEFAULT_MAX_MAP_COUNT;
  try {
    maxMapCount = Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8'));
  } catch {
    // Not Linux, or no /proc: the default is what is left.
  }
  return { maxMapCount, memoryBytes: availableMemory() };
}

/** @throws CapacityError */
export function checkCapacity({ vms, vgpus, processes, ramBytes }: RunSize, machine = thisMachine()): void {
  const vmsPerProcess = Math.ceil(vms / processes);
  const maps = MAPS_PER_PROCESS + vmsPerProcess * (vgpus + 1) * MAPS_PER_WORKER;
  if (maps > machine.maxMapCount) {
    const fit = Math.floor((machine.maxMapCount - MAPS_PER_PROCESS) / ((vgpus + 1) * MAPS_PER_WORKER));
    throw new CapacityError(
      `${vmsPerProcess} VMs × ${vgpus} vGPUs in one process may need ${maps} memory maps; ` +
        `vm.max_map_count is ${machine.maxMapCount}: at most ${fit} VMs per process ` +
        `(use --processes, or raise vm.max_map_count)`,
    );
  }
  const bytes = vms * (ramBytes + (vgpus + 1) * BYTES_PER_WORKER);
  if (bytes > machine.memoryBytes * MEMORY_SHARE) {
    const mib = (value: number) => `${Math.ceil(value / 2 ** 20)} MiB`;
    throw new CapacityError(
      `${vms} VMs of ${mib(ramBytes)} RAM and ${vgpus} vGPUs may need ${mib(bytes)}; ` +
        `${mib(machine.memoryBytes)} are available, of which ${MEMORY_SHARE * 100} % may be planned`,
    );
  }
}
