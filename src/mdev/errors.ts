/**
 * What a refused mdev operation throws.
 */

import type { Errno } from '../platform/errno.ts';

/** Where a file operation failed: at `open`, or at the read or write after it. */
type MdevErrorStage = 'open' | 'transfer';

/** Thrown by a refused operation: the kernel's errno name, and a message with the names and numbers. */
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
