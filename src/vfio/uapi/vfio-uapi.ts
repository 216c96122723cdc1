/**
 * The numbers of the VFIO calls, as <linux/vfio.h> has them, and 64-bit addresses taken apart.
 *
 * A 64-bit address is a bigint in a call's arguments only. Inside it is a page number, exact in float64 (52 bits),
 * and an offset in the page.
 */
import { hex, PAGE_SHIFT, PAGE_SIZE } from '../../memory/address.ts';
import { VfioError } from '../errors.ts';

export const API_VERSION = 0;

/** Kinds of IOMMU that SET_IOMMU takes, and what CHECK_EXTENSION is asked about. */
export const Extension = {
  type1: 1,
  type1v2: 3,
  cacheCoherency: 4,
  unmapAll: 9,
  updateVaddr: 10,
} as const;

export const MAP_READ = 1;
export const MAP_WRITE = 2;
export const MAP_VADDR = 4;
export const UNMAP_DIRTY_BITMAP = 1;
export const UNMAP_ALL = 2;
export const UNMAP_VADDR = 4;
export const DIRTY_START = 1;
export const DIRTY_STOP = 2;
export const DIRTY_GET_BITMAP = 4;
export const GROUP_VIABLE = 1;
export const GROUP_CONTAINER_SET = 2;
export const INFO_PGSIZES = 1;
export const INFO_CAPS = 2;

/** Bytes of the structures: what `argsz` must reach. */
export const MAP_ARGSZ = 32;
export const UNMAP_ARGSZ = 24;
export const BITMAP_BYTES = 24;
export const DIRTY_ARGSZ = 8;
export const DIRTY_RANGE_BYTES = 40;
export const INFO_ARGSZ = 16;
export const INFO_BYTES = 24;
export const MIGRATION_CAP_BYTES = 32;
export const AVAIL_CAP_BYTES = 16;

/** What a container of mediated devices maps: any multiple of 4 KiB. */
export const IOVA_PGSIZES = 0xfffffffffffff000n;
/** Pages of 2^64 bytes. */
export const PAGES_64 = 2 ** 52;
/** The most pages that one dirty bitmap speaks of, and its bytes. */
export const DIRTY_PAGES_MAX = 2 ** 31 - 1;
export const DIRTY_BITMAP_MAX = 2 ** 28;
/** The most pages that one pin or unpin names. */
export const PIN_PAGES_MAX = 512;

const SHIFT = BigInt(PAGE_SHIFT);
const OFFSET_MASK = BigInt(PAGE_SIZE - 1);

export const pageOf = (address: bigint): number => Number(address >> SHIFT);
export const offsetOf = (address: bigint): number => Number(address & OFFSET_MASK);
/** The address, or the size in bytes, of a number of pages. */
export const addressOf = (page: number): bigint => BigInt(page) << SHIFT;

/** True if [address, address + size) reaches beyond 2^64; `size` is not 0. */
export const wraps = (address: bigint, size: bigint): boolean => address + size > 1n << 64n;

/** @throws VfioError EINVAL if a structure is shorter than `least` bytes or carries unknown flags */
export function checkArgs(what: string, argsz: number, least: number, flags: number, known: number): void {
  if (argsz < least) throw new VfioError('EINVAL', `${what}: argsz ${argsz}, at least ${least}`);
  if ((flags & ~known) !== 0)
    throw new VfioError('EINVAL', `${what}: flags ${hex(flags)}, known ${hex(known)}`);
}
