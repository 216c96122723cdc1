/**
 * Completion of work that may have to wait: undefined when it is already done.
 */

/** Undefined when the work is already done; otherwise a promise of its end. Saves a turn on the usual path. */
export type Completion = Promise<void> | undefined;

/** Runs `next` when `work` is complete: at once if it already is. */
export function after(work: Completion, next: () => Completion): Completion {
  return work ? work.then(next) : next();
}

/** Complete when all of them are. */
export function all(works: readonly Completion[]): Completion {
  const pending = works.filter((work) => work !== undefined);
  if (pending.length === 0) return undefined;
  return pending.length === 1 ? pending[0] : Promise.all(pending).then(() => {});
}
