/**
 * What a user's file threw, in one line.
 */
import { fileURLToPath } from 'node:url';

/** Characters of such a line: what a message may add to a report. */
const ERROR_TEXT_LIMIT = 400;

/** Name, message and, if it can be told, the line of the file at `url` that threw. Never throws, whatever was thrown. */
export function errorText(error: unknown, url: string): string {
  try {
    if (!(error instanceof Error)) return `threw ${String(error)}`.slice(0, ERROR_TEXT_LIMIT);
    const text = `${error.name}: ${error.message.split('\n')[0]}`.slice(0, ERROR_TEXT_LIMIT);
    const file = url.startsWith('file:') ? fileURLToPath(url) : url;
    const place = error.stack
      ?.split('\n')
      .find((line) => line.trim().startsWith('at ') && line.includes(file));
    return place ? `${text} (${place.trim().replace('file://', '')})` : text;
  } catch {
    return 'threw something that cannot be described';
  }
}
