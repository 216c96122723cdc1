/**
 * The error of a call of the C library.
 */
import { constants } from 'node:os';

/** Thrown by a failed call: its name and errno. */
export class SystemCallError extends Error {
  readonly errno: number;
  /** `ENOENT`, or the number of an unknown errno. */
  readonly code: string;
  readonly syscall: string;
  constructor(syscall: string, errno: number, detail = '') {
    const code = codeOf(errno);
    super(`${code}: ${syscall}${detail === '' ? '' : ` ${detail}`}`);
    this.name = 'SystemCallError';
    [this.errno, this.code, this.syscall] = [errno, code, syscall];
  }
}

const codeOf = (errno: number): string =>
  Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`;
