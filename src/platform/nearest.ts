/**
 * The nearest of the accepted names, for messages about an unknown one.
 */

/** Maximum count of characters compared of a name. */
const COMPARED_CHARACTERS = 64;

/** Returns the name with the fewest edits from `word`, the first of several; undefined without names. */
export function nearest(word: string, names: Iterable<string>): string | undefined {
  let best: string | undefined;
  let fewest = Number.POSITIVE_INFINITY;
  for (const name of names) {
    const count = edits(word.toLowerCase(), name.toLowerCase());
    if (count < fewest) [best, fewest] = [name, count];
  }
  return best;
}

/** Counts insertions, removals, replacements and swaps of neighbours that make `b` of `a` (Damerau–Levenshtein). */
function edits(a: string, b: string): number {
  const [from, to] = [a.slice(0, COMPARED_CHARACTERS), b.slice(0, COMPARED_CHARACTERS)];
  let [older, old]: [number[], number[]] = [[], Array.from({ length: to.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= from.length; i++) {
    const row = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = (old[j - 1] as number) + (from[i - 1] === to[j - 1] ? 0 : 1);
      const swapped =
        i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]
          ? (older[j - 2] as number) + 1
          : Number.POSITIVE_INFINITY;
      row.push(Math.min((old[j] as number) + 1, (row[j - 1] as number) + 1, replaced, swapped));
    }
    [older, old] = [old, row];
  }
  return old[to.length] as number;
}
