/**
 * Addresses of the three address spaces of a mapping, as branded numbers.
 *
 * All addresses are float64 integers, exact up to 2^53. The widest address that the emulator handles is a 48-bit IOVA.
 * The brands prevent that code which expects a host physical address receives a guest physical one.
 */

declare const brand: unique symbol;
type Branded<Name extends string> = number & { readonly [brand]: Name };

/** Guest physical address: an address of RAM as the guest's CPU sees it. */
export type Gpa = Branded<'Gpa'>;
/** I/O virtual address: an address that a device puts on the bus. Without translation it equals a GPA. */
export type Iova = Branded<'Iova'>;
/** Host physical address of the emulated machine. It never equals the GPA that it backs. */
export type Hpa = Branded<'Hpa'>;

export const PAGE_SHIFT = 12;
/** Page sizes, in bytes. */
export const PAGE_SIZE = 4096;
export const PAGE_2M = 2 ** 21;
export const PAGE_1G = 2 ** 30;
export const FOUR_GIB = 2 ** 32;

/** Page access permission bits, as in VFIO_DMA_MAP_FLAG_READ / _WRITE. */
export const PERM_READ = 1;
export const PERM_WRITE = 2;
export const PERM_RW = 3;

/** Thrown for an address that is not an integer in [0, 2^53). */
class AddressError extends RangeError {
  constructor(what: string, value: number) {
    super(`${what} ${value} is not an integer in [0, 2^53)`);
    this.name = 'AddressError';
  }
}

/** Returns the number as a GPA. @throws AddressError */
export function gpa(value: number): Gpa {
  if (!Number.isSafeInteger(value) || value < 0) throw new AddressError('GPA', value);
  return value as Gpa;
}

/** Returns the IOVA of a GPA where nothing translates. */
export const toIova = (address: Gpa): Iova => address as number as Iova;
/** Returns the GPA of an IOVA where nothing translates. */
export const toGpa = (address: Iova): Gpa => address as number as Gpa;

/** Returns the address `bytes` after `base`, in the same address space. */
export const offsetBy = <A extends Gpa | Iova | Hpa>(base: A, bytes: number): A => (base + bytes) as A;

/** Returns true if `value` is a multiple of `alignment`, a positive integer that may exceed 2^32. */
export const isAligned = (value: number, alignment: number): boolean => value % alignment === 0;

export const alignDown = (value: number, alignment: number): number => value - (value % alignment);

/** Returns `0x…` in lower case, as the kernel and QEMU print addresses. */
export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
/** Returns `value` in at least `digits` hexadecimal digits, without `0x`. */
export const hexDigits = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
