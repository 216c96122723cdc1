/**
 * Interface behind a vIOMMU: one map/unmap notifier per device. A vIOMMU never knows the container itself.
 */
import type { Gpa, Iova } from '../memory/address.ts';
import type { DmaWindow } from '../memory/dma-window.ts';
import type { Completion } from '../platform/completion.ts';

/** One translation of a device's address space. Sizes are in bytes, `perm` is PERM_READ | PERM_WRITE. */
export interface Translation {
  readonly iova: Iova;
  readonly gpa: Gpa;
  readonly size: number;
  readonly perm: number;
}

export interface IovaRange {
  readonly iova: Iova;
  readonly size: number;
}

/**
 * Called for each translation in ascending IOVA order. Returning false ends the walk. Arguments are plain numbers,
 * because a replay visits millions of translations.
 */
// biome-ignore lint/suspicious/noConfusingVoidType: most visitors visit everything and return nothing
export type TranslationVisitor = (iova: Iova, gpa: Gpa, size: number, perm: number) => boolean | void;

/** Result of a map event. `refused`: this range cannot be mapped (not RAM, overlap). `full`: no further one can. */
export type MapOutcome = 'mapped' | 'refused' | 'full';

/**
 * The translations of one domain, as the guest's tables define them. IOVAs from 2^53 on are float64 too. They are exact
 * to the page, because every translation begins and ends at a multiple of 4 KiB.
 */
export interface TranslationSource {
  /** Exclusive upper bound of all translations; default IOVA_LIMIT, 2^48. */
  readonly limit?: number | undefined;
  /** Visits every translation that intersects [start, end), with its whole extent. */
  walk(start: number, end: number, visit: TranslationVisitor): void;
  /** Returns the translation that covers `iova`. Records no fault. */
  leafAt(iova: number): Translation | undefined;
}

/** Exclusive upper bound of IOVAs, unless a source has its own limit: page tables translate at most 48 bits. */
export const IOVA_LIMIT = 2 ** 48;

/** Returns the exclusive upper bound of a source's translations. */
export const limitOf = (source: TranslationSource): number => source.limit ?? IOVA_LIMIT;

/** Receiver of a device's map events: the container in a run, a recorder in a test. */
export interface MapNotifier {
  /** Adds one mapping. The device faults on every address that is not mapped. */
  map(iova: Iova, gpa: Gpa, size: number, perm: number): MapOutcome;
  /**
   * Adds `count` mappings of one page each, with consecutive IOVAs, page i at GPA gpas[i]. They do not cross a multiple
   * of 2 MiB. Returns false and adds none if {@link map} must handle any of them, as pages that are not RAM. A replay adds
   * millions of pages.
   */
  mapPages?(iova: Iova, gpas: Float64Array, count: number, perm: number): boolean;
  /** Removes whole mappings. Complete (R6) only when no device can use them any more. */
  unmap(ranges: readonly IovaRange[]): Completion;
  unmapAll(): Completion;
  /**
   * Returns why this cannot be mapped now, even if no other mapping were in the way; undefined if it can. If absent,
   * nothing is known.
   */
  refusal?(iova: Iova, gpa: Gpa, size: number, perm: number): string | undefined;
  /** True if exactly this mapping is live. */
  has(iova: Iova, gpa: Gpa, size: number, perm: number): boolean;
  /** The live mapping that covers `iova`. */
  mappingAt(iova: number): Translation | undefined;
  /** Visits the live mappings that intersect [start, end) in ascending order, until `visit` returns false. */
  forEachMapping(start: number, end: number, visit: TranslationVisitor): void;
  /**
   * Sets the windows in which all further mappings lie. Only vIOMMUs with fixed windows call it, when nothing is mapped
   * outside them.
   */
  windows?(windows: readonly DmaWindow[]): void;
  /** Has the device's interrupt messages go to the vIOMMU, or pass as they are. */
  remapInterrupts?(on: boolean): void;
  /** Begins a switch: until `switchEnd`, a device that finds no mapping waits instead of faulting. */
  switchBegin(): void;
  switchEnd(): void;
}
