/**
 * What the stress run's writer and readers agree on: which IOVAs are used, and what the bytes of their pages say.
 */
import { type Iova, PAGE_1G, PAGE_2M, PAGE_SIZE } from '../../src/memory/address.ts';

/** Words of the control block. `asked` is one per reader: the container's requests to unpin so far. */
export const Control = { stop: 0, unmaps: 1, ready: 2, asked: 16 } as const;
export const CONTROL_BYTES = 256;

/**
 * Regions of 2 MiB, mapped by one large leaf or by single pages, as the writer likes. Some share a GiB, some are
 * alone in theirs, so that nodes of both levels come and go.
 */
export const REGIONS = 12;
const REGIONS_TOGETHER = 8;
/** The pages of a region that are used. */
export const PAGE_OFFSETS = [0, 7, 300, 511] as const;

export const regionIova = (region: number): Iova =>
  (region < REGIONS_TOGETHER
    ? PAGE_1G + region * 3 * PAGE_2M
    : (region - REGIONS_TOGETHER + 3) * PAGE_1G + region * PAGE_2M) as Iova;

/** A spot is one used page: all that readers draw from. */
export const SPOTS = REGIONS * PAGE_OFFSETS.length;
const SPOT_IOVAS = Array.from(
  { length: SPOTS },
  (_, spot) =>
    (regionIova(Math.floor(spot / PAGE_OFFSETS.length)) +
      (PAGE_OFFSETS[spot % PAGE_OFFSETS.length] as number) * PAGE_SIZE) as Iova,
);
export const spotIova = (spot: number): Iova => SPOT_IOVAS[spot] as Iova;

/** Words at a page's start that carry its stamp; each use reads them all. */
export const STAMP_WORDS = 16;
const SERIAL_BITS = 20;
/** What a frame holds that is mapped nowhere: the stamp of no spot. */
export const POISON = 0x0bad_0bad;

/** The stamp of a spot's page while it is mapped: the spot, and the mapping's number. */
export const stampOf = (spot: number, serial: number): number =>
  ((spot + 1) << SERIAL_BITS) | (serial % 2 ** SERIAL_BITS);
export const spotOfStamp = (stamp: number): number => (stamp >>> SERIAL_BITS) - 1;
