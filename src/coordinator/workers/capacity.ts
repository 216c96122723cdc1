/**
 * Checks that this machine has the capacity for a run, before anything starts. V8 aborts the whole process when it runs
 * out of memory maps, so a run that is too large must not start.
 */
import { readFileSync } from 'node:fs';
import { availableMemory } from 'node:process';
import { counted } from '../../report/text.ts';

/** Maximum count of memory maps per worker (measured: 30 to 50). */
export const MAPS_PER_WORKER = 50;
/** Maximum count of memory maps of a process without workers. */
export const MAPS_PER_PROCESS = 1000;
/** Memory of a device worker or guest worker, a generous estimate. */
const BYTES_PER_WORKER = 12 * 1024 * 1024;
/** Fraction of the available memory that a run may plan for. */
const MEMORY_SHARE = 0.9;
/** The kernel's default, used where /proc cannot be read. */
const DEFAULT_MAX_MAP_COUNT = 65530;

/** Thrown when a run is too large. The message has the numbers and the accepted size. */
export class CapacityError extends Error {
  override name = 'CapacityError';
}

interface RunSize {
  readonly vms: number;
  readonly vgpus: number;
  readonly processes: number;
  readonly ramBytes: number;
}

/** Limits of this machine. */
interface HostCapacity {
  readonly maxMapCount: number;
  readonly memoryBytes: number;
}

/** Returns the limits of this machine as they are now. */
function thisMachine(): HostCapacity {
  let maxMapCount = DEFAULT_MAX_MAP_COUNT;
  try {
    maxMapCount = Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8'));
  } catch {
    // Not Linux, or no /proc: keep the default.
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
      `${counted(vmsPerProcess, 'VM')} × ${counted(vgpus, 'vGPU')} in one process may need ${maps} memory maps; ` +
        `vm.max_map_count is ${machine.maxMapCount}: at most ${counted(fit, 'VM')} per process ` +
        `(use --processes, or raise vm.max_map_count)`,
    );
  }
  const bytes = vms * (ramBytes + (vgpus + 1) * BYTES_PER_WORKER);
  if (bytes > machine.memoryBytes * MEMORY_SHARE) {
    const mib = (value: number) => `${Math.ceil(value / 2 ** 20)} MiB`;
    throw new CapacityError(
      `${counted(vms, 'VM')} of ${mib(ramBytes)} RAM and ${counted(vgpus, 'vGPU')} may need ${mib(bytes)}; ` +
        `${mib(machine.memoryBytes)} are available, of which ${MEMORY_SHARE * 100} % may be planned`,
    );
  }
}
