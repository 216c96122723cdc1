/**
 * What a refused mdev operation throws.
 */

/** The errno names that the mdev core, its drivers and sysfs give. */
export type MdevErrno =
  | 'EACCES'
  | 'EBADF'
  | 'EBUSY'
  | 'EEXIST'
  | 'EINVAL'
  | 'EIO'
  | 'EISDIR'
  | 'ELOOP'
  | 'EMFILE'
  | 'ENODEV'
  | 'ENOENT'
  | 'ENOSPC'
  | 'ENOTDIR'
  | 'ERANGE'
  | 'EUSERS';

/** Where a file operation failed: at `open`, or at the read or write after it. */
export type MdevErrorStage = 'open' | 'transfer';

/** Thrown by a refused operation: the kernel's errno name, and a message with the names and numbers. */
export class MdevError extends Error {
  override name = 'MdevError';
  readonly errno: MdevErrno;
  readonly stage: MdevErrorStage;
  /** The message without the errno's name. */
  readonly detail: string;

  constructor(errno: MdevErrno, message: string, stage: MdevErrorStage = 'transfer') {
    super(`${errno}: ${message}`);
    this.errno = errno;
    this.stage = stage;
    this.detail = message;
  }
}
