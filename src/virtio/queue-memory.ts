/**
 * Memory in which a device finds its virtqueues and buffers: guest RAM for a device of the platform, DMA for a function on
 * the bus. Words are aligned.
 */
export interface QueueMemory {
  /** Returns false for a range that no access can reach. */
  contains(address: number, length: number): boolean;
  read32(address: number): number;
  /** Reads a word at once. All writes before that of the value are visible. */
  load32(address: number): number;
  write32(address: number, value: number): void;
  /** Stores a word at once, after all writes before. */
  publish32(address: number, value: number): void;
  readInto(target: Uint8Array, at: number, address: number, length: number): void;
  write(address: number, bytes: Uint8Array): void;
}
