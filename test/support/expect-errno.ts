import { expect } from 'chai';
import { ReplyError } from './vfio-user-client.ts';

/** Errnos of Linux that replies have. */
export const Errno = { ENXIO: 6, EACCES: 13, EEXIST: 17, EINVAL: 22, ENOTTY: 25, ENOSPC: 28 } as const;

/** Expects an error reply with an errno, EINVAL by default. */
export function expectErrno(work: () => unknown, errno: number = Errno.EINVAL): void {
  try {
    work();
  } catch (error) {
    expect(error).to.be.instanceOf(ReplyError);
    expect((error as ReplyError).errno).to.equal(errno);
    return;
  }
  throw new Error(`no error; expected errno ${errno}`);
}
