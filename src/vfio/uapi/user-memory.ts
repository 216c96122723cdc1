/**
 * Memory of the process that makes the VFIO calls; the kernel's `mm`.
 */

/** One page of memory. While it is pinned, it outlives the process's own mapping of it. */
export interface PageFrame {
  /** 4096 bytes. */
  readonly bytes: Uint8Array;
}

/** Address space of one process. A virtual address is a page number and an offset. */
export interface UserMemory {
  /** False once the process has ended. */
  readonly alive: boolean;
  /** True if the process may lock memory without limit (CAP_IPC_LOCK). */
  readonly locksFreely: boolean;
  /**
   * Returns the page at `vpage` for a long-term pin. With `write`, the page must be writable.
   * @throws VfioError EFAULT
   */
  pin(vpage: number, write: boolean): PageFrame;
  /** Copies to memory, up to the first page that cannot be written. Returns the count of copied bytes. */
  copyIn(vpage: number, offset: number, source: Uint8Array): number;
  /** Copies from memory, up to the first page that cannot be read. Returns the count of copied bytes. */
  copyOut(vpage: number, offset: number, target: Uint8Array): number;
  /**
   * Adds `pages`, which may be negative, to the count of locked pages.
   * @throws VfioError ENOMEM beyond the process's limit, unless `freely`
   */
  lock(pages: number, freely: boolean): void;
}
