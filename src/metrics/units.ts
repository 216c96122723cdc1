/**
 * Durations and sizes with units, as scenarios and thresholds write them: `1m30s`, `250us`, `4MiB`.
 */

/** Unit of a metric's values: microseconds, bytes, a part of 1, or a plain count. */
export type Unit = 'time' | 'bytes' | 'ratio' | 'count';

/** Microseconds of each unit of time. */
const TIME_UNITS: Readonly<Record<string, number>> = {
  us: 1,
  µs: 1,
  ms: 1e3,
  s: 1e6,
  m: 60e6,
  h: 3600e6,
};
const SIZE_UNITS: Readonly<Record<string, number>> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

/** Lists of units, for messages. */
export const TIME_ACCEPTED = 'a number with us, ms, s, m or h';
const SIZE_ACCEPTED = 'a number with B, KiB, MiB or GiB';

const NUMBER = '\\d+(?:\\.\\d+)?';
/** Pattern of a duration. */
export const DURATION_PATTERN = `^(?:${NUMBER}(?:us|µs|ms|s|m|h))+$`;
const DURATION = new RegExp(DURATION_PATTERN);
const DURATION_PARTS = new RegExp(`(${NUMBER})(us|µs|ms|s|m|h)`, 'g');
const SIZE = new RegExp(`^(${NUMBER})(B|KiB|MiB|GiB)$`);

/** Returns microseconds; undefined for a text that is no duration. */
export function parseDuration(text: string): number | undefined {
  if (!DURATION.test(text)) return undefined;
  let total = 0;
  for (const [, number, unit] of text.matchAll(DURATION_PARTS))
    total += Number(number) * (TIME_UNITS[unit as string] as number);
  return total;
}

/** Returns bytes; undefined for a text that is no size. */
export function parseSize(text: string): number | undefined {
  const [, number, unit] = SIZE.exec(text) ?? [];
  return number === undefined ? undefined : Number(number) * (SIZE_UNITS[unit as string] as number);
}

/** Texts that {@link parseValue} accepts for a unit. */
export const acceptedValues = (unit: Unit): string =>
  unit === 'time' ? TIME_ACCEPTED : unit === 'bytes' ? SIZE_ACCEPTED : 'a number without a unit';

/** Returns a value in the unit of a metric; undefined for a text of another unit. */
export function parseValue(text: string, unit: Unit): number | undefined {
  if (unit === 'time') return parseDuration(text);
  if (unit === 'bytes') return parseSize(text);
  return /^-?\d+(?:\.\d+)?(?:e[+-]?\d+)?$/i.test(text) ? Number(text) : undefined;
}

/** Returns a value with its unit, with about three digits. */
export function formatValue(value: number, unit: Unit): string {
  if (unit === 'time') return formatDuration(value);
  if (unit === 'bytes') return formatSize(value);
  return Number.isInteger(value) ? String(value) : value.toFixed(unit === 'ratio' ? 4 : 2);
}

function formatDuration(us: number): string {
  const [scale, unit] = us < 1e3 ? [1, 'us'] : us < 1e6 ? [1e3, 'ms'] : [1e6, 's'];
  const number = us / scale;
  return `${number.toFixed(number < 10 && us !== 0 ? 2 : 1)}${unit}`;
}

function formatSize(bytes: number): string {
  const [unit, scale] = Object.entries(SIZE_UNITS).findLast(([, size]) => bytes >= size) ?? ['B', 1];
  return `${(bytes / scale).toFixed(unit === 'B' ? 0 : 1)}${unit}`;
}
