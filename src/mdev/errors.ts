/**
 * Errors of refused mdev operations.
 */

import type { Errno } from '../platform/errno.ts';

/** The system call that failed: `open`, or the read or write after it. */
type MdevErrorStage = 'open' | 'transfer';

/** Thrown by a refused operation, with the kernel's errno name and a message that has the details. */
export class MdevError extends Error {
  override name = 'MdevError';
  readonly errno: Errno;
  readonly stage: MdevErrorStage;
  /** The message without the errno's name. */
  readonly detail: string;

  constructor(errno: Errno, message: string, stage: MdevErrorStage = 'transfer') {
    super(`${errno}: ${message}`);
    this.errno = errno;
    this.stage = stage;
    this.detail = message;
  }
}
