/**
 * Audit of a device's container: its differences from the guest's tables, and which of them the guest must answer for.
 *
 * A guest that works changes its tables first and announces the change afterwards. So a single comparison finds the
 * changes that are on their way, too. An audit of a working guest therefore has two readings:
 *
 * 1. The first notes every difference as a suspect.
 * 2. Each synchronisation of a range with the tables, which an invalidation causes, explains the suspects there.
 * 3. The second reading follows when all that the guest had begun before the first is complete. A suspect that is
 *    unchanged and that nothing has explained was not announced.
 */
import { type Gpa, type Iova, offsetBy } from '../memory/address.ts';
import { limitOf, type MapNotifier, type TranslationSource } from './notifier.ts';

/** A difference between a container and the guest's tables, found by {@link DeviceAddressSpace.audit}. */
export interface Divergence {
  readonly iova: Iova;
  readonly size: number;
  /** GPA in the container; undefined if nothing is mapped. */
  readonly held: Gpa | undefined;
  /** GPA in the tables; undefined if nothing is mapped. */
  readonly expected: Gpa | undefined;
}

/** An audit reports at most this many differences. */
export const DIVERGENCE_LIMIT = 16;

/** Translations that a container cannot hold. */
export interface Lacking {
  /** Their count, at most LACKING_LIMIT. */
  readonly count: number;
  /** IOVA of the first one, and why it is not mapped. */
  readonly iova: Iova;
  readonly size: number;
  readonly reason: string;
}

/** Translations of one container that are counted as lacking. */
const LACKING_LIMIT = 4096;

/** Compares the container with its source. Leaves out what the container cannot hold. */
export function readDivergences(
  source: TranslationSource,
  notifier: MapNotifier,
  limit: number,
): Divergence[] {
  const found: Divergence[] = [];
  notifier.forEachMapping(0, limitOf(source), (iova, gpa, size, perm) => {
    const leaf = source.leafAt(iova);
    if (leaf?.iova === iova && leaf.gpa === gpa && leaf.size === size && leaf.perm === perm) return true;
    if (found.length >= limit) return false;
    found.push({ iova, size, held: gpa, expected: leaf && offsetBy(leaf.gpa, iova - leaf.iova) });
    return true;
  });
  let lacking = 0;
  source.walk(0, limitOf(source), (iova, gpa, size, perm) => {
    if (notifier.mappingAt(iova)) return true;
    if (notifier.refusal?.(iova, gpa, size, perm) !== undefined) return ++lacking < LACKING_LIMIT;
    if (found.length < limit) found.push({ iova, size, held: undefined, expected: gpa });
    return found.length < limit;
  });
  return found;
}

/** Returns the translations that the container lacks because it cannot hold them. */
export function lackingIn(source: TranslationSource, notifier: MapNotifier): Lacking | undefined {
  let first: Omit<Lacking, 'count'> | undefined;
  let count = 0;
  source.walk(0, limitOf(source), (iova, gpa, size, perm) => {
    if (notifier.mappingAt(iova)) return true;
    const reason = notifier.refusal?.(iova, gpa, size, perm);
    if (reason === undefined) return true;
    first ??= { iova, size, reason };
    return ++count < LACKING_LIMIT;
  });
  return first && { ...first, count };
}

/** The differences of a first reading that no invalidation has explained. */
export class Suspects {
  /** Differences of one device that an audit follows. */
  static readonly limit = 4096;
  #open: Divergence[] = [];

  /** Begins an audit with the differences of the first reading. Returns their count. */
  begin(found: readonly Divergence[]): number {
    this.#open = [...found];
    return found.length;
  }

  /** Drops the suspects that touch [start, end): the container has been synchronised with the tables there. */
  explain(start: number, end: number): void {
    if (this.#open.length > 0)
      this.#open = this.#open.filter(({ iova, size }) => iova >= end || iova + size <= start);
  }

  /** Ends the audit. Returns the suspects that the second reading finds unchanged. */
  end(read: () => readonly Divergence[]): Divergence[] {
    const suspects = this.#open;
    this.#open = [];
    if (suspects.length === 0) return [];
    const now = new Map(read().map((found) => [found.iova, found]));
    return suspects.filter((suspect) => {
      const found = now.get(suspect.iova);
      return (
        found?.size === suspect.size && found.held === suspect.held && found.expected === suspect.expected
      );
    });
  }
}
