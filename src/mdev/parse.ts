/**
 * Text as the kernel's own parsers take it.
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
 * The UUID at the start of `text`, in lower case. `text` is 36 bytes, or 36 and any one byte more: the kernel looks at
 * the length first and never at the 37th byte (`create_store`).
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

/** An unsigned number as kstrtoul takes it with base 0. @throws MdevError EINVAL, ERANGE above 2^64 - 1 */
export function parseUnsigned(text: string): number {
  const digits = UNSIGNED.exec(cString(text))?.[1];
  if (digits === undefined) throw new MdevError('EINVAL', `${JSON.stringify(text)} is not a number`);
  const value = BigInt(/^0[0-7]+$/.test(digits) ? `0o${digits.slice(1)}` : digits);
  if (value > ULONG_MAX) throw new MdevError('ERANGE', `${digits} is more than 64 bits`);
  return Number(value);
}

/** What a C string holds of `text`: all before the first NUL. */
export const cString = (text: string): string => text.split('\0', 1)[0] as string;

/** A word with at most one newline after it (sysfs_streq). */
export const parseWord = (text: string): string => cString(text).replace(/\n$/, '');
