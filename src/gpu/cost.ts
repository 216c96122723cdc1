/**
 * Cost of work in engine time: bytes at a nominal rate, plus a fixed part per command.
 *
 * The cost is nominal, not measured. A measurement would charge a thread for the time in which the machine's
 * scheduler has preempted it, which is most of the time on few cores. With a cost model a share is a share of work,
 * the same on every machine, and a fairness of 1.00 means exactly that. Wall time shows in the guests' latencies.
 */

/** Nanoseconds per byte, close to those of one server core, so that engine time and wall time have the same order. */
export const FILL_NS_PER_BYTE = 1 / 8;
export const COPY_NS_PER_BYTE = 1 / 4;
export const CHECKSUM_NS_PER_BYTE = 1 / 2;

/** One round of an endless loop. */
export const SPIN_NS = 5000;

/** Writing a page table entry and dropping its shadow entry. */
export const PTE_NS = 200;

/** Fetching a command and writing its completion. */
export const COMMAND_NS = 2000;
