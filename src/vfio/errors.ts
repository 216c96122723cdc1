import type { Errno } from '../platform/errno.ts';

/** Thrown by a refused call: the kernel's errno name and a message with the numbers. */
export class VfioError extends Error {
  readonly errno: Errno;
  constructor(errno: Errno, message: string) {
    super(`${errno}: ${message}`);
    this.name = 'VfioError';
    this.errno = errno;
  }
}
