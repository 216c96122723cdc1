/**
 * Texts of scripts, models and other sources that may be of any size and hold any character.
 */

/** Maximum count of characters of a text in a report. */
const TEXT_LIMIT = 1000;

/** Converts any value to a text of at most `limit` characters; the rest is counted. Never throws. */
export function boundedText(value: unknown, limit = TEXT_LIMIT): string {
  const text = textOf(value).toWellFormed();
  const more = text.length - limit;
  return more > 0 ? `${text.slice(0, limit).toWellFormed()}… (and ${more} more characters)` : text;
}

function textOf(value: unknown): string {
  try {
    return typeof value === 'string' ? value : String(value);
  } catch {
    return 'a value without a text';
  }
}

/** Maximum count of characters of a phase's name. */
export const PHASE_LIMIT = 100;

/** Returns a text in which control characters are visible, so that it stays one line and moves no cursor. */
export const oneLine = (text: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones to replace
  text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) =>
    character === '\n' ? '\\n' : `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

/** Returns a count with its noun: `1 VM`, `2 VMs`. */
export const counted = (count: number, one: string, many = `${one}s`): string =>
  `${count} ${count === 1 ? one : many}`;

/** Returns a duration in a suitable unit. */
export function timeText(us: number): string {
  if (us < 1000) return `${us.toFixed(us < 10 ? 1 : 0)} µs`;
  return us < 1_000_000
    ? `${(us / 1000).toFixed(us < 10_000 ? 2 : 1)} ms`
    : `${(us / 1_000_000).toFixed(2)} s`;
}

/** Width of a summary, unless one of its texts is longer. */
export const COLUMNS = 80;
const TITLE_COLUMNS = 17;

/** Returns a title with items beside it, wrapped between items. */
export function titledLines(title: string, items: readonly string[]): string[] {
  const lines: string[] = [];
  for (const item of items) {
    const longer = lines.length === 0 ? item : `${lines.at(-1)}   ${item}`;
    if (lines.length === 0 || TITLE_COLUMNS + longer.length > COLUMNS) lines.push(item);
    else lines[lines.length - 1] = longer;
  }
  return lines.map((line, i) => `  ${(i === 0 ? title : '').padEnd(TITLE_COLUMNS - 2)}${line}`);
}
