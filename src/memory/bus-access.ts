/** Size in bytes of one access to a register. */
export type AccessSize = 1 | 2 | 4 | 8;

/** The value that a read of `size` bytes returns where no device answers: all bits are 1. */
export const allOnes = (size: number): bigint => (1n << BigInt(8 * size)) - 1n;
