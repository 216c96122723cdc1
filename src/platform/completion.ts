/**
 * Completion of work that may have to wait for others. The usual path needs no promise and no turn of the event loop.
 */

/** `undefined` if the work is already done; otherwise a promise that resolves when it is. */
export type Completion = Promise<void> | undefined;

/** Runs `next` when `work` is complete: at once if it already is. Complete when both are. */
// biome-ignore lint/suspicious/noConfusingVoidType: most continuations have nothing to wait for and return nothing
export function whenDone(work: Completion, next: () => Completion | void): Completion {
  return work ? work.then(next) : (next() as Completion);
}

/** Complete when all of `works` are. */
export function all(works: readonly Completion[]): Completion {
  const pending = works.filter((work) => work !== undefined);
  if (pending.length === 0) return undefined;
  return pending.length === 1 ? pending[0] : Promise.all(pending).then(() => {});
}
