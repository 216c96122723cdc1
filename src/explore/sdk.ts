/**
 * The module `mdevsim/explore`: declaration of harnesses, and shared words for them.
 *
 * In production, the operations are those of `#mem`. In the model each is a step (model/operations.ts takes the place of
 * this file). Sites are free names here.
 */
import * as mem from '#mem';

export type { SharedBytes, SharedWords } from '#mem';
export { ensure, explore, type Harness, ViolationError } from './harness.ts';

type Free<F> = F extends (...args: [...infer A, infer _Site]) => infer R
  ? (...args: [...A, string]) => R
  : never;

const free = <F>(operation: F): Free<F> => operation as unknown as Free<F>;

export const { wordsOf, bytesOf, peek, poke } = mem;
/** Plain read. */
export const rd: Free<typeof mem.rd> = free(mem.rd);
/** Plain write. */
export const wr: Free<typeof mem.wr> = free(mem.wr);
/** Sequentially consistent load. */
export const ld: Free<typeof mem.ld> = free(mem.ld);
/** Sequentially consistent store. */
export const st: Free<typeof mem.st> = free(mem.st);
/** Atomic read-modify-writes. They return the old value. */
export const add: Free<typeof mem.add> = free(mem.add);
export const and: Free<typeof mem.and> = free(mem.and);
export const or: Free<typeof mem.or> = free(mem.or);
export const xchg: Free<typeof mem.xchg> = free(mem.xchg);
export const cas: Free<typeof mem.cas> = free(mem.cas);
/** Blocks while the word equals a value. Returns false on time-out. */
export const waitEq: Free<typeof mem.waitEq> = free(mem.waitEq);
/** Wakes all threads that wait on the word. */
export const wake: Free<typeof mem.wake> = free(mem.wake);
export const copyIn: Free<typeof mem.copyIn> = free(mem.copyIn);
export const copyOut: Free<typeof mem.copyOut> = free(mem.copyOut);
