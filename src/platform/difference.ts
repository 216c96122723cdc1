/**
 * Differences between two values that JSON can hold.
 */

/** A place where two values differ, as names and numbers with dots between them, and the values there. */
export interface Difference {
  readonly where: string;
  readonly a: unknown;
  readonly b: unknown;
}

/** Yields the places where two values differ, in the order of the first one. */
export function* differences(a: unknown, b: unknown, where: string): Iterable<Difference> {
  if (!isObject(a) || !isObject(b)) {
    if (!Object.is(a, b)) yield { where, a, b };
    return;
  }
  for (const key of new Set([...Object.keys(a), ...Object.keys(b)]))
    yield* differences(a[key], b[key], where === '' ? key : `${where}.${key}`);
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null;

/** Maximum count of characters of a value in a text. */
const SHOWN_LIMIT = 80;

/** Returns a value as a text of one line. */
export function shownValue(value: unknown): string {
  const text = JSON.stringify(value) ?? 'missing';
  return text.length > SHOWN_LIMIT ? `${text.slice(0, SHOWN_LIMIT)}…` : text;
}
