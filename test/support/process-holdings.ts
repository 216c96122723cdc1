/**
 * Resources of the system that this process holds: descriptors, threads, and mappings outside JavaScript's memory.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Size from which a mapping counts as a reservation: the guest memory of a served device. */
const RESERVATION_BYTES: number = 32 * 2 ** 30;

export interface Holdings {
  /** Kinds of the descriptors, in order: `socket`, `anon_inode:[eventfd]`, … */
  readonly descriptors: readonly string[];
  readonly threads: number;
  readonly reservations: number;
  /** Mappings of memory files. */
  readonly memoryFiles: number;
}

/** Returns the holdings of this process, threads included. */
export function holdingsOfProcess(): Holdings {
  const links = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      // The descriptor of the folder itself.
      return '';
    }
  });
  const kinds = links.filter((link) => link !== '').map((link) => link.replace(/:\[\d+\]$/, ''));
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const size = (line: string): number => {
    const [start = 0, end = 0] = (line.split(' ', 1)[0] ?? '')
      .split('-')
      .map((text) => Number.parseInt(text, 16));
    return end - start;
  };
  return {
    descriptors: kinds.sort(),
    threads: readdirSync('/proc/self/task').length,
    reservations: maps.filter((line) => !line.includes('/') && size(line) >= RESERVATION_BYTES).length,
    memoryFiles: maps.filter((line) => line.includes('/memfd:')).length,
  };
}
