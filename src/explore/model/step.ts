/**
 * A step: one access to shared memory, as a thread of the model announces it and the scheduler performs it.
 */
import { StepKind } from '../../platform/schedule-trace.ts';
import { type ModelBytes, type ModelWords, memory } from './memory.ts';

export { StepKind };
export const STEP_NAMES: readonly string[] = Object.keys(StepKind);

/** One access. `a` and `b` are its operands; `lo` to `hi` the locations that it touches. */
export class Step {
  readonly kind: StepKind;
  readonly site: string;
  readonly words: ModelWords | undefined;
  readonly index: number;
  readonly a: number;
  readonly b: number;
  readonly lo: number;
  readonly hi: number;
  /** Action of a copied piece, or the wait that a join waits for. */
  readonly payload: unknown;

  constructor(
    kind: StepKind,
    site: string,
    words: ModelWords | undefined,
    index: number,
    a: number,
    b: number,
    lo: number,
    hi: number,
    payload?: unknown,
  ) {
    this.kind = kind;
    this.site = site;
    this.words = words;
    this.index = index;
    this.a = a;
    this.b = b;
    this.lo = lo;
    this.hi = hi;
    this.payload = payload;
  }
}

/** Returns a step on one word. */
export function wordStep(
  kind: StepKind,
  words: ModelWords,
  index: number,
  a: number,
  b: number,
  site: string,
): Step {
  const at = words.base + index;
  return new Step(kind, site, words, index, a, b, at, at + 1);
}

/** Returns a step that touches no memory. */
export const plainStep = (kind: StepKind, site: string, a = 0, payload?: unknown): Step =>
  new Step(kind, site, undefined, 0, a, 0, 0, 0, payload);

/** Returns a step that reads or writes a range of bytes by `action`. */
export function byteStep(
  kind: StepKind,
  site: string,
  bytes: ModelBytes,
  offset: number,
  length: number,
  action: () => number,
): Step {
  const first = bytes.base + Math.floor((bytes.offset + offset) / 4);
  const end = bytes.base + Math.ceil((bytes.offset + offset + length) / 4);
  return new Step(kind, site, undefined, offset, length, 0, first, end, () => {
    if (kind === StepKind.write) memory.noteBytes(bytes, offset, length);
    return action();
  });
}

const { rd, ld, wait, waitAsync, read, start, resume, sleep, join } = StepKind;
const isYield = StepKind.yield;

/** Returns whether a step changes memory or wakes a thread. */
export const changes = ({ kind }: Step): boolean =>
  kind !== rd &&
  kind !== ld &&
  kind !== wait &&
  kind !== waitAsync &&
  kind !== read &&
  kind !== start &&
  kind !== resume &&
  kind !== isYield &&
  kind !== sleep &&
  kind !== join;

/** Returns whether the order of two steps of different threads matters. */
export const conflict = (one: Step, other: Step): boolean =>
  one.lo < other.hi && other.lo < one.hi && (changes(one) || changes(other));

/** Performs an access to memory, in the newest state. Waits and wakes are the scheduler's. */
export function perform(step: Step): number {
  const { kind, index } = step;
  if (kind === read || kind === StepKind.write) return (step.payload as () => number)();
  const array = (step.words as ModelWords).array;
  const old = array[index] as number;
  switch (kind) {
    case rd:
    case ld:
      return old;
    case StepKind.fill:
      memory.note(array, index, step.b);
      array.fill(step.a, index, index + step.b);
      return 0;
    default:
      memory.note(array, index, 1);
      array[index] = changed(step, old);
      return old;
  }
}

/** Returns the word that a step stores in place of `old`. */
function changed({ kind, a, b }: Step, old: number): number {
  switch (kind) {
    case StepKind.add:
      return (old + a) | 0;
    case StepKind.and:
      return old & a;
    case StepKind.or:
      return old | a;
    case StepKind.cas:
      return old === a ? b : old;
    default:
      return a;
  }
}
