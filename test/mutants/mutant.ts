/**
 * A semantic mutant: one small change of a source file that a reader could make by mistake, and the tests that must see
 * it.
 */

export interface Mutant {
  /** Unique, `area/what`: the name for `--only`. */
  readonly id: string;
  /** Source file, from the repository's root. */
  readonly file: string;
  /** Text that occurs exactly once in the file. */
  readonly find: string;
  /** Text that replaces it; comments and formatting do not count as a change. */
  readonly replace: string;
  /** Fault that the change causes. */
  readonly why: string;
  /** Test files that must fail, from the repository's root; unit, property and conformance tests only. */
  readonly killedBy: readonly string[];
  /** Reason why no behaviour changes; such a mutant is listed, but not run. */
  readonly equivalent?: string;
}

/** Thrown for a mutant that does not fit the sources. */
class MutantError extends Error {
  override name = 'MutantError';
}

const TEST = /^test\/(unit|property|conformance)\/[\w.-]+\.test\.ts$/;

/**
 * Returns the mutated source.
 * @throws MutantError if `find` does not occur exactly once, if nothing changes, or if a test is of another kind
 */
export function mutate({ id, find, replace, killedBy }: Mutant, source: string): string {
  const parts = source.split(find);
  if (parts.length !== 2)
    throw new MutantError(`${id}: its text occurs ${parts.length - 1} times; accepted: once`);
  if (find === replace) throw new MutantError(`${id}: the replacement changes nothing`);
  const other = killedBy.find((test) => !TEST.test(test));
  if (other !== undefined)
    throw new MutantError(`${id}: ${other}; accepted: unit, property and conformance tests`);
  return parts.join(replace);
}
