/**
 * Error of a VFIO call.
 */
import { PinTableFullError } from '../pin-table/node-pool.ts';
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

/** Returns the error of a refused map. @throws any error that is no refusal */
export function asVfioError(error: unknown): VfioError {
  if (error instanceof VfioError) return error;
  if (error instanceof PinTableFullError) return new VfioError('ENOSPC', error.message);
  throw error;
}
