/**
 * Parsers that accept the same text as the kernel's.
 */
import { MdevError } from './errors.ts';

/** Characters of a UUID's text (the kernel's UUID_STRING_LEN). */
export const UUID_CHARACTERS = 36;
/** The largest unsigned long. */
const ULONG_MAX = 2n ** 64n - 1n;

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
/** Decimal, 0x hexadecimal or 0 octal, one newline allowed (kstrtoul with base 0). */
const UNSIGNED = /^\+?(0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)\n?$/i;

/**
 * Parses a UUID and returns it in lower case. `text` has 36 bytes, or 37 of which the last is ignored: the kernel checks
 * only the length and the first 36 bytes (`create_store`).
 *
 * @throws MdevError EINVAL
 */
export function parseUuid(text: string): string {
  const bytes = Buffer.byteLength(text);
  const uuid = text.slice(0, UUID_CHARACTERS);
  if (bytes < UUID_CHARACTERS || bytes > UUID_CHARACTERS + 1 || !UUID.test(uuid))
    throw new MdevError('EINVAL', `${JSON.stringify(text)} (${bytes} bytes) is not a UUID`);
  return uuid.toLowerCase();
}

/** Parses an unsigned number like kstrtoul with base 0. @throws MdevError EINVAL, ERANGE above 2^64 - 1 */
export function parseUnsigned(text: string): number {
  const digits = UNSIGNED.exec(cString(text))?.[1];
  if (digits === undefined) throw new MdevError('EINVAL', `${JSON.stringify(text)} is not a number`);
  const value = BigInt(/^0[0-7]+$/.test(digits) ? `0o${digits.slice(1)}` : digits);
  if (value > ULONG_MAX) throw new MdevError('ERANGE', `${digits} does not fit in 64 bits`);
  return Number(value);
}

/** Returns `text` up to the first NUL, like a C string. */
const cString = (text: string): string => text.split('\0', 1)[0] as string;

/** Returns `text` without one trailing newline (sysfs_streq). */
export const parseWord = (text: string): string => cString(text).replace(/\n$/, '');
