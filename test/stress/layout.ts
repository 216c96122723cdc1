/**
 * Layout that writer and readers of the stress run share: IOVAs in use and the stamps in their pages.
 */
import { type Iova, PAGE_1G, PAGE_2M, PAGE_SIZE } from '../../src/memory/address.ts';

/** Words of the control block. `asked` is the first of one word per reader: the count of requests to unpin. */
export const Control = { stop: 0, unmaps: 1, ready: 2, asked: 16 } as const;
export const CONTROL_BYTES = 256;

/**
 * Count of 2 MiB regions. The writer maps a region by one large leaf or by single pages. Some regions share a GiB and
 * some do not, so nodes of both levels are allocated and freed.
 */
export const REGIONS = 12;
const REGIONS_TOGETHER = 8;
/** Pages of a region that are used. */
export const PAGE_OFFSETS = [0, 7, 300, 511] as const;

export const regionIova = (region: number): Iova =>
  (region < REGIONS_TOGETHER
    ? PAGE_1G + region * 3 * PAGE_2M
    : (region - REGIONS_TOGETHER + 3) * PAGE_1G + region * PAGE_2M) as Iova;

/** Count of spots. A spot is one used page; readers choose among them. */
export const SPOTS = REGIONS * PAGE_OFFSETS.length;
const SPOT_IOVAS = Array.from(
  { length: SPOTS },
  (_, spot) =>
    (regionIova(Math.floor(spot / PAGE_OFFSETS.length)) +
      (PAGE_OFFSETS[spot % PAGE_OFFSETS.length] as number) * PAGE_SIZE) as Iova,
);
export const spotIova = (spot: number): Iova => SPOT_IOVAS[spot] as Iova;

/** Words at the start of a page that hold its stamp. Each use reads them all. */
export const STAMP_WORDS = 16;
const SERIAL_BITS = 20;
/** Stamp of a frame that is not mapped. It belongs to no spot. */
export const POISON = 0x0bad_0bad;

/** Returns the stamp of a spot's mapped page: the spot and the serial number of the mapping. */
export const stampOf = (spot: number, serial: number): number =>
  ((spot + 1) << SERIAL_BITS) | (serial % 2 ** SERIAL_BITS);
export const spotOfStamp = (stamp: number): number => (stamp >>> SERIAL_BITS) - 1;
