/**
 * Services of a device that a VMM drives over vfio-user, in addition to those of every model.
 */
import type { PeerOutcome } from '../channel/peer-block.ts';
import type { Iova } from '../memory/address.ts';

/** Memory of the device that the client may map. */
export interface SharedRegion {
  readonly bytes: Uint8Array;
  /** The file of the memory. */
  readonly fd: number;
}

export interface ServedContext {
  /** Returns the milliseconds since 1970. */
  wallMs(): number;
  /** Returns the first live DMA maps, in ascending order, at most `limit`. */
  dmaRanges(limit: number): readonly { readonly iova: Iova; readonly size: number }[];
  /**
   * Reads or writes client memory by messages, also where it could be mapped. While it is 'busy', the model's step must
   * return 'stalled' and repeat its accesses.
   */
  accessByMessage(isWrite: boolean, iova: Iova, bytes: Uint8Array): PeerOutcome;
  /** Returns memory that the client may map. It belongs to the device and outlives a reset. */
  sharedMemory(name: string, bytes: number): SharedRegion;
}
