/**
 * What a vIOMMU knows of the world behind it: a map/unmap notifier per device, never the container itself.
 */
import type { Gpa, Iova } from '../memory/address.ts';
import type { DmaWindow } from '../memory/dma-window.ts';
import type { Completion } from '../platform/completion.ts';

/** One live translation of a device's address space; sizes are bytes, `perm` is PERM_READ | PERM_WRITE. */
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
 * Called for each translation in ascending IOVA order; plain arguments, because a replay visits millions. Returning
 * false ends the walk.
 */
// biome-ignore lint/suspicious/noConfusingVoidType: most visitors want to see everything and return nothing
export type TranslationVisitor = (iova: Iova, gpa: Gpa, size: number, perm: number) => boolean | void;

/** What became of a map event: `refused` concerns this range alone (not RAM, overlap), `full` every further one. */
export type MapOutcome = 'mapped' | 'refused' | 'full';

/**
 * The tables of one domain: where translations come from. IOVAs from 2^53 on are float64 too: they are exact to the
 * page, because every translation's ends are multiples of 4 KiB.
 */
export interface TranslationSource {
  /** No translation reaches this far; undefined: IOVA_LIMIT, 2^48. */
  readonly limit?: number;
  /** Visits every translation that intersects [start, end), each with its whole extent. */
  walk(start: number, end: number, visit: TranslationVisitor): void;
  /** The translation that covers `iova`, without recording a fault. */
  leafAt(iova: number): Translation | undefined;
}

/** The receiving end of a device's map events: a container behind guest RAM. */
export interface MapNotifier {
  /** Adds one mapping. What is not mapped, the device will fault on. */
  map(iova: Iova, gpa: Gpa, size: number, perm: number): MapOutcome;
  /**
   * Adds `count` mappings of a page each, one behind the other in IOVA space, page i at GPA gpas[i]: what a replay has
   * millions of. False, and nothing is added, if any of them is one for {@link map} to answer. They never cross a
   * multiple of 2 MiB.
   */
  mapPages?(iova: Iova, gpas: Float64Array, count: number, perm: number): boolean;
  /** Removes whole mappings; complete (R6) only when no device can use them any more. */
  unmap(ranges: readonly IovaRange[]): Completion;
  unmapAll(): Completion;
  /** True if exactly this mapping is live. */
  has(iova: Iova, gpa: Gpa, size: number, perm: number): boolean;
  /** The live mapping that covers `iova`. */
  mappingAt(iova: number): Translation | undefined;
  /** Visits the live mappings that intersect [start, end) in ascending order. */
  forEachMapping(start: number, end: number, visit: TranslationVisitor): void;
  /**
   * Only of a vIOMMU with fixed windows: mappings lie in these from now on. Called when nothing is mapped outside them.
   */
  windows?(windows: readonly DmaWindow[]): void;
  /** Until `switchEnd`, a device that finds no mapping waits instead of faulting. */
  switchBegin(): void;
  switchEnd(): void;
}
