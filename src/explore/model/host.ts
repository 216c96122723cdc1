/**
 * `#host` of the model: a clock that each step advances by a microsecond, and no timers.
 */
import { defer, ModelError } from './runtime.ts';
import { plainStep, type Step, StepKind } from './step.ts';

// Names that are not replaced below: the seeded generator of random numbers, and the priority of threads.
export * from '../../platform/platform.ts';

let clockUs = 0;
/** Sets the clock; for the scheduler. */
export function setClock(us: number): void {
  clockUs = us;
}

export const nowUs = (): number => clockUs;
export const wallMs = (): number => clockUs / 1000;

/** Lets other threads run. */
export function* yieldTurn(): Generator<Step, undefined, undefined> {
  yield plainStep(StepKind.yield, 'host.yield');
}
export function* yieldToOthers(): Generator<Step, undefined, undefined> {
  yield plainStep(StepKind.yield, 'host.yield');
}
export function* sleep(ms: number): Generator<Step, undefined, undefined> {
  yield plainStep(StepKind.sleep, 'host.sleep', ms);
}

/** Calls `action` when this thread waits next, or ends. */
export const afterCallback = (action: () => unknown): void => defer(action);

const refuse = (name: string) => (): never => {
  throw new ModelError(`${name}() of #host is not supported in the model`);
};
export const after: () => never = refuse('after');
export const every: () => never = refuse('every');
export const drawSeed: () => never = refuse('drawSeed');
export const drawBytes: () => never = refuse('drawBytes');
