/**
 * An entry of the corpus: a program with one fault that only some interleavings show.
 */
import type { Patch } from '../../src/explore/transform/loader.ts';

export interface CorpusEntry {
  /** Unique, `group/fault`. */
  readonly id: string;
  /** File and export of the harness, from the repository's root: `path#name`. */
  readonly harness: string;
  /** Changes that plant the fault in the sources; a harness with a fault of its own has none. */
  readonly patches?: readonly Patch[];
  /** The same program without the fault, if it is another export. By default the harness without patches. */
  readonly correct?: string;
  readonly fault: string;
  /** Rules that the fault breaks. */
  readonly rules: readonly string[];
  /** Schedules in which partial-order sampling must find it with the first seed. */
  readonly budget: number;
  /** True if only stale loads show the fault. */
  readonly weak?: true;
}
