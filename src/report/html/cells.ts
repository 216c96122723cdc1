/**
 * Values as text, one character for each: a heat map of a thousand vGPUs stays small.
 */

/** Characters of the levels, from the lowest. None of them is escaped in JSON or HTML. */
const LEVELS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const NONE = '.';

/** Returns a character for each value: its level on a logarithmic scale from `min` to `max`; `.` for null. */
export const encodeCells = (values: readonly (number | null)[], min: number, max: number): string =>
  values.map((value) => (value === null ? NONE : LEVELS[levelOf(value, min, max)])).join('');

function levelOf(value: number, min: number, max: number): number {
  const part = max > min ? Math.log(Math.max(value, min) / min) / Math.log(max / min) : 0;
  return Math.round(Math.min(1, part) * (LEVELS.length - 1));
}

/** Returns the part from 0 to 1 that a character stands for; undefined for none. */
export function decodeCell(character: string | undefined): number | undefined {
  const level = character === undefined ? -1 : LEVELS.indexOf(character);
  return level < 0 ? undefined : level / (LEVELS.length - 1);
}
