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
/** Open files per worker (measured: 5), and of a process without workers (measured: 23). */
const FILES_PER_WORKER = 5;
const FILES_PER_PROCESS = 50;
/** Threads of a process without workers (measured: 7). */
const THREADS_PER_PROCESS = 10;
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

interface RunSize extends VmSize {
  readonly vms: number;
  readonly processes: number;
}

/** VMs of one size. */
interface VmSize {
  readonly vgpus: number;
  readonly ramBytes: number;
}

/** Limits of this machine. */
export interface HostCapacity {
  readonly maxMapCount: number;
  readonly memoryBytes: number;
  /** Open files of a process (RLIMIT_NOFILE); infinite if not known. */
  readonly openFiles: number;
  /** Threads that this user may start: the least of the known limits. */
  readonly threads: number;
}

/** Returns the limits of this machine as they are now. */
export function thisMachine(): HostCapacity {
  const limits = textOf('/proc/self/limits');
  const softLimit = (name: string) => countOf(new RegExp(`^${name} +(\\d+)`, 'm').exec(limits)?.[1]);
  return {
    maxMapCount: Number(textOf('/proc/sys/vm/max_map_count')) || DEFAULT_MAX_MAP_COUNT,
    memoryBytes: availableMemory(),
    openFiles: softLimit('Max open files'),
    threads: Math.min(
      softLimit('Max processes'),
      countOf(textOf('/proc/sys/kernel/threads-max')),
      countOf(textOf('/sys/fs/cgroup/pids.max')),
    ),
  };
}

/** Returns the content of a file of the kernel; empty if there is no such file. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}

const countOf = (text = ''): number => (/^\d+$/.test(text) ? Number(text) : Number.POSITIVE_INFINITY);

/** One limit of the machine, and the count of VMs that it allows. */
export interface CapacityLimit {
  readonly name: 'memory' | 'memory maps' | 'threads' | 'open files';
  /** The machine's value. */
  readonly here: number;
  /** Part of it that the VMs cannot take. */
  readonly reserved: number;
  readonly perVm: number;
  /** True if each host process has this limit for itself. */
  readonly perProcess: boolean;
  readonly vms: number;
}

/** Returns the limits for VMs of one size, divided over host processes. */
export function limitsOf(
  { vgpus, ramBytes }: VmSize,
  processes: number,
  machine: HostCapacity = thisMachine(),
): readonly CapacityLimit[] {
  const workers = vgpus + 1;
  const limit = (
    name: CapacityLimit['name'],
    here: number,
    reserved: number,
    perVm: number,
    perProcess: boolean,
  ): CapacityLimit => {
    const vms = Math.max(0, Math.floor((here - reserved) / perVm));
    return { name, here, reserved, perVm, perProcess, vms: perProcess ? vms * processes : vms };
  };
  const { memoryBytes, maxMapCount, threads, openFiles } = machine;
  const unplanned = memoryBytes * (1 - MEMORY_SHARE);
  return [
    limit('memory maps', maxMapCount, MAPS_PER_PROCESS, workers * MAPS_PER_WORKER, true),
    limit('threads', threads, THREADS_PER_PROCESS * processes, workers, false),
    limit('open files', openFiles, FILES_PER_PROCESS, workers * FILES_PER_WORKER, true),
    limit('memory', memoryBytes, unplanned, ramBytes + workers * BYTES_PER_WORKER, false),
  ];
}

/** @throws CapacityError */
export function checkCapacity(size: RunSize, machine: HostCapacity = thisMachine()): void {
  const { vms, vgpus, processes, ramBytes } = size;
  const vmsPerProcess = Math.ceil(vms / processes);
  for (const limit of limitsOf(size, processes, machine)) {
    const wanted = limit.perProcess ? vmsPerProcess * processes : vms;
    if (wanted <= limit.vms) continue;
    if (limit.name === 'memory')
      throw new CapacityError(
        `${counted(vms, 'VM')} of ${mib(ramBytes)} RAM and ${counted(vgpus, 'vGPU')} may need ${mib(vms * limit.perVm)}; ` +
          `${mib(limit.here)} are available, of which ${MEMORY_SHARE * 100} % may be planned`,
      );
    throw new CapacityError(
      limit.perProcess
        ? perProcessText(limit, vmsPerProcess, vgpus, processes)
        : `${counted(vms, 'VM')} × ${counted(vgpus, 'vGPU')} may need ${limit.reserved + vms * limit.perVm} threads; ` +
            `${limit.here} are accepted here: at most ${counted(limit.vms, 'VM')}`,
    );
  }
}

const mib = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;

const SETTING_OF = { 'memory maps': 'vm.max_map_count', 'open files': 'RLIMIT_NOFILE' } as const;

function perProcessText(limit: CapacityLimit, vms: number, vgpus: number, processes: number): string {
  const setting = SETTING_OF[limit.name as keyof typeof SETTING_OF];
  return (
    `${counted(vms, 'VM')} × ${counted(vgpus, 'vGPU')} in one process may need ` +
    `${limit.reserved + vms * limit.perVm} ${limit.name}; ` +
    `${setting} is ${limit.here}: at most ${counted(limit.vms / processes, 'VM')} per process ` +
    `(use --processes, or raise ${setting})`
  );
}
