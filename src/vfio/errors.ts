/**
 * Error of a VFIO call.
 */
import type { Errno } from '../platform/errno.ts';

/** Thrown by a refused call. The message names the errno and the values that were refused. */
export class VfioError extends Error {
  readonly errno: Errno;
  constructor(errno: Errno, message: string) {
    super(`${errno}: ${message}`);
    this.name = 'VfioError';
    this.errno = errno;
  }
}
