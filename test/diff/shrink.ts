/** Makes a failing list as short as it gets while it still fails: delta debugging. */

/** Runs of the test that one shrinking may cost. */
export const SHRINK_LIMIT = 200;

export interface ShrinkOptions<T> {
  /** Items that stay in any case. */
  readonly keeps?: (item: T) => boolean;
  /** Default `SHRINK_LIMIT`. */
  readonly limit?: number;
}

/**
 * Leaves out ever smaller pieces as long as the rest still fails. What is left fails; unless the limit was reached, no
 * single item of it can be left out.
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
    // From the end: what comes after the difference goes first.
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
