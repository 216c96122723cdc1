/**
 * The memory of the process that maps: what an `mm` is to the kernel.
 */

/** One page of memory that can be held: it outlives the process's mapping of it while it is pinned. */
export interface PageFrame {
  /** 4096 bytes. */
  readonly bytes: Uint8Array;
}

/** One process's address space. Virtual addresses are page numbers and offsets. */
export interface UserMemory {
  /** False once the process has ended. */
  readonly alive: boolean;
  /** Whether it may lock memory without limit (CAP_IPC_LOCK). */
  readonly locksFreely: boolean;
  /**
   * The page at `vpage`, held for long, writable if `write`.
   * @throws VfioError EFAULT
   */
  pin(vpage: number, write: boolean): PageFrame;
  /** Copies to memory, up to the first page that cannot be written; gives the bytes copied. */
  copyIn(vpage: number, offset: number, source: Uint8Array): number;
  /** Copies from memory, up to the first page that cannot be read; gives the bytes copied. */
  copyOut(vpage: number, offset: number, target: Uint8Array): number;
  /**
   * Counts `pages` (negative: fewer) as locked.
   * @throws VfioError ENOMEM beyond the process's limit, unless `freely`
   */
  lock(pages: number, freely: boolean): void;
}
