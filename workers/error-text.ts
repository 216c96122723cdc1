/**
 * One-line texts of the errors that a user's file throws.
 */
import { fileURLToPath } from 'node:url';

/** Maximum count of characters in such a line. */
const ERROR_TEXT_LIMIT = 400;

/** Returns name, message and, if known, the line of the file at `url` that threw. Never throws. */
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
