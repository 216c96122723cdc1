/**
 * Helpers of rewritten modules, and the names of the platform that they use instead of Node's.
 *
 * A call of an async function runs where it is made, up to its end: the calls of one thread are not interleaved with
 * each other. An awaited wait blocks the thread.
 */
import { memory } from './memory.ts';
import { perform, plainStep, Step, StepKind } from './step.ts';

/** Class of all generator objects: `x instanceof Steps` is true for the result of a function that steps. */
export const Steps = function Steps() {} as unknown as { readonly prototype: Generator };
Object.defineProperty(Steps, 'prototype', {
  value: Object.getPrototypeOf(Object.getPrototypeOf((function* () {})())),
});

const isSteps = (value: unknown): value is Generator<Step, unknown, unknown> =>
  value instanceof (Steps as unknown as new () => object);

/** Thrown for a construct that the model does not have. */
export class ModelError extends Error {
  override name = 'ModelError';
}

/** Result of an async function, which has run. */
class Settled {
  readonly value: unknown;
  constructor(value: unknown) {
    this.value = value;
  }

  // biome-ignore lint/suspicious/noThenProperty: sources call it as they call a promise's
  *then(action?: (value: unknown) => unknown): Generator<Step, Settled, unknown> {
    if (!action) return this;
    const result = action(this.value);
    return settled(isSteps(result) ? yield* result : result);
  }

  *finally(action: () => unknown): Generator<Step, Settled, unknown> {
    const result = action();
    if (isSteps(result)) yield* result;
    return this;
  }

  catch(): Settled {
    return this;
  }
}

export const settled = (value: unknown): Settled => (value instanceof Settled ? value : new Settled(value));

/** Returns the value of an async function's result, and any other value as it is. */
export const resultOf = (value: unknown): unknown => (value instanceof Settled ? value.value : value);

/** A wait that has begun without blocking: the scheduler ends it, and `await` blocks until then. */
export class PendingWait {
  /** undefined while it waits, then what the wait returns. */
  outcome: boolean | undefined;
  /** Site and location of the wait. */
  readonly site: string;
  readonly at: number;

  constructor(site: string, at: number) {
    this.site = site;
    this.at = at;
  }

  // biome-ignore lint/suspicious/noThenProperty: sources call it as they call a promise's
  *then(action?: (value: unknown) => unknown): Generator<Step, Settled, unknown> {
    return yield* settled(yield* settle(this)).then(action);
  }
}

/** Actions for the end of the callback that a thread runs. */
export type Deferred = (() => unknown)[];
let deferred: Deferred = [];

/** Takes the actions of the thread that runs from now on; for the scheduler. */
export function useDeferred(actions: Deferred): void {
  deferred = actions;
}

export const defer = (action: () => unknown): void => {
  deferred.push(action);
};

/** Ends the callback that a thread runs: calls what waits for it. */
export function* endCallback(): Generator<Step, void, unknown> {
  for (const action of deferred.splice(0)) yield* call(action);
}

/** Waits for an awaited value. */
export function* settle(value: unknown): Generator<Step, unknown, unknown> {
  if (deferred.length > 0) yield* endCallback();
  if (value instanceof Settled) return yield* settle(value.value);
  if (value instanceof PendingWait) return yield plainStep(StepKind.join, 'await', 0, value);
  if (value instanceof globalThis.Promise) throw new ModelError('the model cannot await a promise of Node');
  return value;
}

/** Performs the steps of a value at once, outside the schedule. Returns its result. */
export function now(value: unknown): unknown {
  if (value instanceof Step) return performNow(value);
  if (!isSteps(value)) return value;
  let next = value.next();
  while (!next.done) next = value.next(performNow(next.value));
  return next.value;
}

function performNow(step: Step): unknown {
  switch (step.kind) {
    case StepKind.wait:
      throw new ModelError(`a wait (${step.site}) outside the threads of a harness`);
    case StepKind.waitAsync:
      return step.words?.array[step.index] === step.a ? new PendingWait(step.site, step.lo) : undefined;
    case StepKind.join:
    case StepKind.sleep:
      throw new ModelError(`a wait (${step.site}) outside the threads of a harness`);
    case StepKind.wake:
    case StepKind.yield:
      return undefined;
    default:
      return perform(step);
  }
}

/** Takes the next value of a generator of the sources, and passes its steps on. */
export function* next(source: Iterator<unknown>): Generator<Step, IteratorResult<unknown>, unknown> {
  for (let result = source.next(); ; ) {
    if (result.done || !(result.value instanceof Step)) return result;
    result = (source as Generator<unknown, unknown, unknown>).next(yield result.value);
  }
}

/** Returns the iterator of a loop: a generator of the sources, or that of any other iterable. */
export const iterator = (source: Iterable<unknown> | Iterator<unknown>): Iterator<unknown> =>
  isSteps(source) ? source : (source as Iterable<unknown>)[Symbol.iterator]();

/** Takes all values of a generator of the sources. Returns anything else as it is: names are compared, not types. */
export function* all(source: unknown): Generator<Step, unknown, unknown> {
  if (!isSteps(source)) return source;
  const values: unknown[] = [];
  for (let result = yield* next(source); !result.done; result = yield* next(source))
    values.push(result.value);
  return values;
}

/** Reads properties of an object, of which some are getters that step. */
export function* properties(
  keys: readonly string[],
  object: Readonly<Record<string, unknown>>,
): Generator<Step, Record<string, unknown>, unknown> {
  const read: Record<string, unknown> = {};
  for (const key of keys) {
    const value = object[key];
    read[key] = isSteps(value) ? yield* value : value;
  }
  return read;
}

type Callback = (...values: unknown[]) => unknown;

function* call(callback: Callback, ...values: unknown[]): Generator<Step, unknown, unknown> {
  const result = callback(...values);
  return isSteps(result) ? yield* result : result;
}

/** Calls a higher-order method with a function that may step. */
export function* each(
  receiver: unknown,
  method: string,
  callback: Callback,
  ...rest: unknown[]
): Generator<Step, unknown, unknown> {
  if (receiver === Array) {
    const [, mapping] = [0, rest[0] as Callback];
    return yield* each(Array.from(callback as unknown as ArrayLike<unknown>), 'map', mapping);
  }
  if (!Array.isArray(receiver) && !(receiver instanceof Set) && !(receiver instanceof Map)) {
    const result = (receiver as Record<string, Callback>)[method]?.(callback, ...rest);
    return isSteps(result) ? yield* result : result;
  }
  const pairs: [unknown, unknown][] =
    receiver instanceof Map
      ? [...receiver].map(([key, value]) => [value, key])
      : [...receiver].map((v, i) => [v, i]);
  return yield* eachOf(pairs, method, callback, rest);
}

function* eachOf(
  pairs: readonly [unknown, unknown][],
  method: string,
  callback: Callback,
  [initial]: readonly unknown[],
): Generator<Step, unknown, unknown> {
  if (method === 'reduce') {
    let sum = initial;
    for (const [value, key] of pairs) sum = yield* call(callback, sum, value, key);
    return sum;
  }
  const results: unknown[] = [];
  for (const [value, key] of pairs) {
    const result = yield* call(callback, value, key);
    if (method === 'find' && result) return value;
    if (method === 'findIndex' && result) return key;
    if (method === 'some' && result) return true;
    if (method === 'every' && !result) return false;
    if (method === 'map' || method === 'flatMap') results.push(result);
    if (method === 'filter' && result) results.push(value);
  }
  switch (method) {
    case 'map':
    case 'filter':
      return results;
    case 'flatMap':
      return results.flat();
    case 'findIndex':
      return -1;
    case 'some':
      return false;
    case 'every':
      return true;
    case 'forEach':
    case 'find':
      return undefined;
    default:
      throw new ModelError(`.${method}() with shared accesses is not supported in the model`);
  }
}

/** Takes buffers of the model's memory. */
class ModelBuffer {
  static [Symbol.hasInstance](value: unknown): boolean {
    return value instanceof globalThis.SharedArrayBuffer;
  }
  constructor(bytes: number) {
    // biome-ignore lint/correctness/noConstructorReturn: a buffer of the pool takes the place of a new one
    return memory.allocate(bytes) as unknown as ModelBuffer;
  }
}

export { ModelBuffer as SharedArrayBuffer };

const ModelPromise = {
  resolve: settled,
  all: (values: readonly unknown[]): Settled =>
    settled(values.map((value) => (value instanceof Settled ? value.value : value))),
};

export { ModelPromise as Promise };
