/**
 * Access of a guest driver to a device's registers.
 */
export interface RegisterPort {
  /** Posts a write; resolves when the write has reached the device, maybe before its effects. */
  write(offset: number, size: 4 | 8, value: bigint): void | Promise<void>;
  read(offset: number, size: 4 | 8): Promise<bigint>;
}
