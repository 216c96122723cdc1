/**
 * A harness: threads that share memory, and the properties that must hold in every interleaving of them.
 */

/** Threads of one experiment. Each schedule begins with a new `setup`. */
export interface Harness<State = unknown> {
  /** Name in reports; by default that of the file's export. */
  readonly name?: string;
  /** Makes the shared memory and all that the threads use. Its accesses to shared memory are not scheduled. */
  setup(): State;
  /** Functions of the threads, by name. Each runs once in a schedule. */
  readonly threads: Readonly<Record<string, (state: State) => unknown>>;
  /** Checks the state when all threads have ended. `results` has what the threads returned, by name. */
  check?(state: State, results: Readonly<Record<string, unknown>>): unknown;
  /** Limit of steps in one schedule; more are the violation `no-progress`. */
  readonly stepLimit?: number;
  /** True if a wait may end by its time limit. By default, a wait that only its time limit ends is `lost-wake`. */
  readonly timeouts?: boolean;
  /** Threads that may die between any two of their steps. */
  readonly mayDie?: readonly string[];
  /** Called at the death of a thread, by the thread `death of NAME`. */
  died?(state: State, thread: string): unknown;
}

/** Thrown by a thread or a check of a harness when a rule is broken. */
export class ViolationError extends Error {
  override name = 'ViolationError';
  readonly rule: string;
  constructor(rule: string, message: string) {
    super(message);
    this.rule = rule;
  }
}

/** Declares a harness, with the type of its state. */
export const explore = <State>(harness: Harness<State>): Harness<State> => harness;

/** Requires a condition. @throws ViolationError */
export function ensure(
  condition: boolean,
  rule: string,
  message: string | (() => string),
): asserts condition {
  if (!condition) throw new ViolationError(rule, typeof message === 'string' ? message : message());
}

/** Returns whether a value is a harness. */
export const isHarness = (value: unknown): value is Harness =>
  typeof value === 'object' &&
  value !== null &&
  typeof (value as Partial<Harness>).setup === 'function' &&
  typeof (value as Partial<Harness>).threads === 'object';
