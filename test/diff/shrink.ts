/**
 * Delta debugging: shortens a failing list while it still fails.
 */

/** Maximum count of test runs per shrinking. */
const SHRINK_LIMIT = 200;

export interface ShrinkOptions<T> {
  /** Returns true for items that must stay. */
  readonly keeps?: (item: T) => boolean;
  /** Default `SHRINK_LIMIT`. */
  readonly limit?: number;
}

/**
 * Removes ever smaller pieces while the rest still fails. Returns a failing list. Unless the limit was reached, no single
 * item of it can be removed.
 */
export async function shrink<T>(
  items: readonly T[],
  fails: (items: readonly T[]) => Promise<boolean>,
  { keeps = () => false, limit = SHRINK_LIMIT }: ShrinkOptions<T> = {},
): Promise<T[]> {
  let left = [...items];
  let runs = 0;
  for (let size = Math.ceil(left.length / 2); size >= 1; ) {
    let removed = false;
    // Starts at the end, because items after the first difference can be removed first.
    for (let end = left.length; end > 0; end -= size) {
      const start = Math.max(0, end - size);
      const shorter = left.filter((item, index) => index < start || index >= end || keeps(item));
      if (shorter.length === left.length) continue;
      if (runs++ >= limit) return left;
      if (!(await fails(shorter))) continue;
      left = shorter;
      removed = true;
    }
    if (size === 1 && !removed) break;
    if (size > 1) size = Math.floor(size / 2);
  }
  return left;
}
