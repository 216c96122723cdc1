/**
 * Sizes of a VU's buffers.
 */
import { PAGE_SIZE } from '../memory/address.ts';

/** Pages of each of a VU's two buffers. */
export const BUFFER_PAGES = 4;
export const BUFFER_BYTES: number = BUFFER_PAGES * PAGE_SIZE;
/** Bytes of guest RAM that a VU takes. */
export const VU_BYTES: number = 2 * BUFFER_BYTES;
