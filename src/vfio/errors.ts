/** The errno names of the calls that containers, groups and devices refuse, with the kernel's meaning. */
export type Errno =
  | 'E2BIG'
  | 'EACCES'
  | 'EAGAIN'
  | 'EBADF'
  | 'EBADFD'
  | 'EBUSY'
  | 'EEXIST'
  | 'EFAULT'
  | 'EINVAL'
  | 'ENODEV'
  | 'ENOENT'
  | 'ENOMEM'
  | 'ENOSPC'
  | 'ENOTTY'
  | 'ENXIO'
  | 'EOVERFLOW'
  | 'EPERM';

/** Thrown by a refused call: the kernel's errno name and a message with the numbers. */
export class VfioError extends Error {
  readonly errno: Errno;
  constructor(errno: Errno, message: string) {
    super(`${errno}: ${message}`);
    this.name = 'VfioError';
    this.errno = errno;
  }
}
