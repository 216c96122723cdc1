/**
 * How a guest driver reaches a device's registers, wherever the device is.
 */
export interface RegisterPort {
  /** Posts a write; resolves when it has reached the device, which says nothing about its effects. */
  write(offset: number, size: 4 | 8, value: bigint): void | Promise<void>;
  read(offset: number, size: 4 | 8): Promise<bigint>;
}
