/**
 * Constants of the VFIO calls, as in <linux/vfio.h>, and the split of 64-bit addresses.
 *
 * Only a call's arguments have 64-bit addresses, as bigint. Inside, an address is a page number, which is exact in
 * float64 (52 bits), and an offset in the page.
 */
import { hex, PAGE_SHIFT, PAGE_SIZE } from '../../memory/address.ts';
import { VfioError } from '../errors.ts';

export const API_VERSION = 0;

/** Extensions of CHECK_EXTENSION. `type1` and `type1v2` are also the IOMMU types of SET_IOMMU. */
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

/** Sizes of the structures in bytes. The `…_ARGSZ` values are the minimum of `argsz`. */
export const MAP_ARGSZ = 32;
export const UNMAP_ARGSZ = 24;
export const BITMAP_BYTES = 24;
export const DIRTY_ARGSZ = 8;
export const DIRTY_RANGE_BYTES = 40;
export const INFO_ARGSZ = 16;
export const INFO_BYTES = 24;
export const MIGRATION_CAP_BYTES = 32;
export const AVAIL_CAP_BYTES = 16;

/** Page sizes of a container of mediated devices: any multiple of 4 KiB. */
export const IOVA_PGSIZES = 0xfffffffffffff000n;
/** Count of pages in 2^64 bytes. */
export const PAGES_64 = 2 ** 52;
/** Maximum count of pages in one dirty bitmap, and of its bytes. */
export const DIRTY_PAGES_MAX = 2 ** 31 - 1;
export const DIRTY_BITMAP_MAX = 2 ** 28;
/** Maximum count of pages in one pin or unpin. */
export const PIN_PAGES_MAX = 512;

const SHIFT = BigInt(PAGE_SHIFT);
const OFFSET_MASK = BigInt(PAGE_SIZE - 1);

export const pageOf = (address: bigint): number => Number(address >> SHIFT);
export const offsetOf = (address: bigint): number => Number(address & OFFSET_MASK);
/** Returns the address of page `page`, or the size in bytes of `page` pages. */
export const addressOf = (page: number): bigint => BigInt(page) << SHIFT;

/** Returns whether [address, address + size) reaches beyond 2^64; `size` is not 0. */
export const wraps = (address: bigint, size: bigint): boolean => address + size > 1n << 64n;

/** @throws VfioError EINVAL if a structure is shorter than `least` bytes or has unknown flags */
export function checkArgs(what: string, argsz: number, least: number, flags: number, known: number): void {
  if (argsz < least) throw new VfioError('EINVAL', `${what}: argsz ${argsz}; accepted: at least ${least}`);
  if ((flags & ~known) !== 0)
    throw new VfioError('EINVAL', `${what}: flags ${hex(flags)}; accepted: bits of ${hex(known)}`);
}
