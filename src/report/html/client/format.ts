/**
 * Numbers as short texts.
 */

const digits = (value: number): string =>
  value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2);

export function timeText(us: number): string {
  if (us < 1e3) return `${digits(us)} µs`;
  return us < 1e6 ? `${digits(us / 1e3)} ms` : `${digits(us / 1e6)} s`;
}

export function bytesText(bytes: number): string {
  for (const [unit, size] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const)
    if (bytes >= size) return `${digits(bytes / size)} ${unit}`;
  return `${digits(bytes)} B`;
}

export function countText(count: number): string {
  if (count >= 1e6) return `${digits(count / 1e6)} M`;
  return count >= 1e4 ? `${digits(count / 1e3)} k` : digits(count);
}

export function valueText(value: number, unit: 'time' | 'count' | 'ratio'): string {
  if (unit === 'ratio') return `${digits(value * 100)} %`;
  return unit === 'time' ? timeText(value) : countText(value);
}

/** Returns a time of the run's clock. */
export const clockText = (seconds: number): string => `${Number(seconds.toFixed(3))} s`;
