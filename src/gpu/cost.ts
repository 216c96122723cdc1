/**
 * What work costs in engine time: bytes at a nominal rate, plus a fixed part per command.
 *
 * Nominal, not measured: a thread that the machine's own scheduler has put aside would be charged for time in which it
 * did nothing, and on few cores that is most of the time. With a cost model a share is a share of work, the same
 * on every machine, and a fairness of 1.00 means exactly that. Wall time shows in the guests' latencies.
 */

/** Nanoseconds per byte; near what one core of a server does, so that engine time and wall time are of one size. */
export const FILL_NS_PER_BYTE = 1 / 8;
export const COPY_NS_PER_BYTE = 1 / 4;
export const CHECKSUM_NS_PER_BYTE = 1 / 2;

/** One round of a loop without an end. */
export const SPIN_NS = 5000;

/** Writing a page table entry and forgetting its shadow. */
export const PTE_NS = 200;

/** Fetching a command and writing its completion. */
export const COMMAND_NS = 2000;
