/**
 * Rules that all kinds of vector files share: a file has vectors, a vector has steps, and their work is bounded.
 */
import { VectorFormatError } from './outcome.ts';

/**
 * Maximum bytes that the steps of a file move together. Each step counts as a page, because a byte takes one. The largest
 * recorded file moves 60 MiB.
 */
const MOVED_BYTES_LIMIT = 256 * 2 ** 20;
const STEP_BYTES = 4096;

/** Fields for the reader of a vector or a step. They are not compared. */
const NOTES: ReadonlySet<string> = new Set([
  'all_zero',
  'group',
  'note',
  'notes',
  'probe',
  'seed',
  'spec_diverges',
  'why',
]);
const isNote = (key: string): boolean => NOTES.has(key) || key.startsWith('qemu_') || key.startsWith('_');

/**
 * Returns the vectors of a parsed file, each without its notes, so that any other unknown field can be refused.
 *
 * @param where names the file in errors
 * @throws VectorFormatError
 */
export function vectorList(value: unknown, where: string): unknown[] {
  if (!Array.isArray(value)) throw new VectorFormatError(`${where}: not an array of vectors`);
  checkVectors(value, where);
  return value.map((vector: unknown) => {
    if (!isRecord(vector) || !Array.isArray(vector.steps)) return vector;
    const steps = vector.steps.map((step) => (isRecord(step) ? withoutNotes(step) : step));
    return { ...withoutNotes(vector), steps };
  });
}

/** Checks that there are vectors and steps, and the work of all. @throws VectorFormatError */
export function checkVectors(vectors: readonly unknown[], where: string): void {
  if (vectors.length === 0) throw new VectorFormatError(`${where}: no vectors`);
  let moved = 0;
  for (const [index, vector] of vectors.entries()) {
    if (!isRecord(vector) || !Array.isArray(vector.steps)) continue;
    const name = typeof vector.name === 'string' ? vector.name.slice(0, NAME_CHARACTERS) : `vector ${index}`;
    if (vector.steps.length === 0) throw new VectorFormatError(`${where}: ${name} has no steps`);
    moved += vector.steps.reduce<number>((sum, step) => sum + bytesOf(step), 0);
    if (moved > MOVED_BYTES_LIMIT)
      throw new VectorFormatError(
        `${where}: ${name}: the steps move too many bytes; accepted: up to ${MOVED_BYTES_LIMIT} in a file, and a step counts as at least ${STEP_BYTES}`,
      );
  }
}

/** Maximum count of characters of a vector's name in a message. */
const NAME_CHARACTERS = 100;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const withoutNotes = (record: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(record).filter(([key]) => !isNote(key)));

/** Returns the bytes that a step moves, by the fields of all kinds that state a length. */
function bytesOf(step: unknown): number {
  if (!isRecord(step)) return STEP_BYTES;
  const { len, count, data, probe_size, writable_len } = step;
  const text = typeof data === 'string' ? data.length / 2 : 0;
  const lengths = [len, probe_size, writable_len].map(numberOf);
  return Math.max(STEP_BYTES, text, 8 * numberOf(count), ...lengths);
}

const numberOf = (value: unknown): number => {
  const number = typeof value === 'string' || typeof value === 'number' ? Number(value) : 0;
  return Number.isFinite(number) && number > 0 ? number : 0;
};
